"""A web server on this machine that misbehaves as told, and notes what it was asked.

A test file takes the fixture over by name: `server = file_server.server`.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Server:
    """What is served, how it misbehaves, and what was asked."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    version: str | None = '"1"'
    break_after: deque[int] = field(default_factory=deque)  # bytes of the next answers
    answers: deque[int] = field(default_factory=deque)  # status of the next answers
    slow: float = 0.0  # seconds before each 64 kB
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, server)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(url=f"http://127.0.0.1:{http.server_port}/")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    http.shutdown()
    thread.join()
    http.server_close()


def answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    name, wanted = request.path.lstrip("/"), request.headers["Range"]
    server.asked.append((name, wanted))
    request.close_connection = True
    status = server.answers.popleft() if server.answers else 200
    if name not in server.files or status != 200:
        request.send_error(404 if status == 200 else status)
        return
    body, start = server.files[name], 0
    whole = request.headers["If-Range"] not in (None, server.version)
    if wanted and server.ranges and not whole:
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        if start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    else:
        request.send_response(200)
    if server.version is not None:
        request.send_header("ETag", server.version)
    if server.lengths:
        request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    body = body[start:]
    if server.break_after:
        body = body[: server.break_after.popleft()]
    for place in range(0, len(body), 1 << 16):
        time.sleep(server.slow)
        try:
            request.wfile.write(body[place : place + (1 << 16)])
        except OSError:
            return  # the other side has hung up
