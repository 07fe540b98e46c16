"""A hub on the loopback address: who fetches a checkpoint, how often, and what is told."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"\0" * 300_000,
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"code",
}


class Hub(BaseHTTPRequestHandler):
    asked: ClassVar[Counter[str]] = Counter()

    def do_HEAD(self) -> None:
        self._file(b"")

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/org/name/tree"):
            rows = [
                {"type": "file", "oid": _oid(data), "size": len(data), "path": name}
                for name, data in FILES.items()
            ]
            self._json(rows)
        elif self.path.startswith("/api/models/"):
            names = [{"rfilename": name} for name in FILES]
            self._json({"id": "org/name", "modelId": "org/name", "sha": COMMIT, "siblings": names})
        else:
            name = self.path.partition("?")[0].rpartition("/")[2]
            Hub.asked[name] += 1
            self._file(FILES[name])

    def _json(self, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, body: bytes) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        data = FILES[name]
        self.send_response(200)
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


CODE = "from merge_core.references import locate; print(locate('org/name'))"


def test_two_processes_fetch_once_and_take_no_pickle(hub: str, tmp_path: Path) -> None:
    drop = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
    kept = {key: value for key, value in os.environ.items() if key not in drop}
    env = {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", CODE], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {Path(one.communicate(timeout=120)[0].strip()) for one in both}
    assert [one.returncode for one in both] == [0, 0]
    (folder,) = folders
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert Hub.asked["model.safetensors"] == 1


def test_a_fetch_tells_how_far_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_core import hub

    monkeypatch.setattr(hub, "EVERY_S", 0.0)
    bars = hub._lines("org/name")
    with caplog.at_level(logging.WARNING, "mergefront"):
        files, size = bars(total=3), bars(total=0, unit="B", unit_scale=True, desc="x")
        files.update(1)
        size.total = 14_000_000_000
        size.update(3_200_000_000)
    assert [record.getMessage() for record in caplog.records] == [
        "fetching org/name: 3.2 of 14.0 GB"
    ]
