"""The watch on the cluster's head, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from search.head import answers, watched

SCRIPT = """
import logging, sys, time
from search.head import watched
logging.getLogger("mergefront").addHandler(logging.NullHandler())  # a run has its log file
with watched(sys.argv[1]):
    print("watching", flush=True)
    time.sleep(60)
"""


def listener() -> tuple[socket.socket, str]:
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.timeout(90)
def test_a_head_that_is_gone_is_one_line_and_exit_code_2() -> None:
    server, address = listener()
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, address],
        env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "watching\n"
    time.sleep(3.0)
    assert driver.poll() is None  # as long as it is there
    server.close()
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 2
    (line,) = said.splitlines()
    assert line.startswith(f"mergefront: the head of the Ray cluster at {address} has been gone")
    assert "the same command goes on" in line


def test_a_head_that_answers_disturbs_nobody() -> None:
    server, address = listener()
    with server, watched(address):
        assert answers(address)
    assert not answers(address)
    assert not answers("nonsense")
