"""The cluster's head: without it Ray ends the driver's process after a minute, without a word.

Ray's core retries for `RAY_gcs_rpc_server_reconnect_timeout_s` and then terminates the process from
C++, where nothing of ours runs any more. So a thread of ours looks first, and says it in one line.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("mergefront")

_LOOK_S = 2.0
_TIMEOUT = "RAY_gcs_rpc_server_reconnect_timeout_s"


def answers(address: str, timeout: float = 2.0) -> bool:
    """Whether somebody listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def watched(address: str) -> Iterator[None]:
    """While the block runs: end this process, exit code 2, if the head is gone for too long.

    As after SIGKILL nothing that was finished is lost: the same command goes on.

    Args:
        address: `host:port` of Ray's GCS.
    """
    done = threading.Event()
    threading.Thread(target=_watch, args=(address, done), name="head", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(address: str, done: threading.Event) -> None:
    patience = max(5.0, float(os.environ.get(_TIMEOUT, "60")) - 15.0)
    seen = time.monotonic()
    while not done.wait(_LOOK_S):
        before = time.monotonic()
        if before - seen > 3 * patience:  # this process itself was suspended
            seen = before
        if answers(address):
            seen = time.monotonic()
        elif time.monotonic() - seen > patience and not done.is_set():
            line = (
                f"the head of the Ray cluster at {address} has been gone for {patience:.0f} s; "
                "when there is a cluster again, the same command goes on"
            )
            log.error(line)
            sys.stderr.write(f"mergefront: {line}\n")
            sys.stderr.flush()
            os._exit(2)
