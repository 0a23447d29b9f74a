"""A proxy in front of an HTTP server that misbehaves as told: answers errors, is slow, cuts connections."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Rule = Callable[[int, str, str], object]
CODES = {503: "SlowDown", 500: "InternalError", 507: "InsufficientStorage", 403: "AccessDenied"}
BETWEEN = ("connection", "transfer-encoding", "expect")  # headers of one connection, not passed on


class Faults:
    """`rule(number, method, path)` says what becomes of a request; numbers count from 1 since the rule was set.

    None: it is passed on. 503: this status instead, nothing is passed on. 0.5: passed on after so many seconds.
    "cut": the connection is closed without an answer. "cut answer": after half of the answer's body.
    "lost answer": the request is passed on, and the connection closed without an answer.
    """

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint)
        self.seen: list[tuple[str, str]] = []
        self._rule: Rule = lambda number, method, path: None
        self._lock = threading.Lock()
        faults = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client went away first
                    self.close_connection = True

            def log_message(self, *_) -> None:
                pass

            def _do(self) -> None:
                faults._handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _do

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def rule(self, rule: Rule) -> None:
        """From now on by this rule; what was seen is forgotten."""
        with self._lock:
            self._rule, self.seen = rule, []

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handle(self, client: BaseHTTPRequestHandler) -> None:
        body = _body(client)
        with self._lock:
            self.seen.append((client.command, client.path))
            action = self._rule(len(self.seen), client.command, client.path)
        if isinstance(action, float):
            time.sleep(action)
        if action == "cut":
            client.close_connection = True
        elif isinstance(action, int):
            self._refuse(client, action)
        else:
            self._forward(client, body, action)

    def _refuse(self, client: BaseHTTPRequestHandler, status: int) -> None:
        code = CODES.get(status, str(status))
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
        client.send_response(status)
        client.send_header("Content-Type", "application/xml")
        client.send_header("Content-Length", str(len(text)))
        client.end_headers()
        if client.command != "HEAD":
            client.wfile.write(text)

    def _forward(self, client: BaseHTTPRequestHandler, body: bytes, action: object) -> None:
        server = http.client.HTTPConnection(self.target.hostname, self.target.port, timeout=60)
        try:
            headers = {name: value for name, value in client.headers.items() if name.lower() not in BETWEEN}
            server.request(client.command, client.path, body or None, headers | {"Connection": "close"})
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        if action == "lost answer":
            client.close_connection = True
            return
        client.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in (*BETWEEN, "content-length"):
                client.send_header(name, value)
        length = answer.getheader("Content-Length") or 0 if client.command == "HEAD" else len(content)
        if answer.status != 204:
            client.send_header("Content-Length", str(length))
        client.end_headers()
        if action == "cut answer":
            content = content[: len(content) // 2]
            client.close_connection = True
        client.wfile.write(content)


def _body(client: BaseHTTPRequestHandler) -> bytes:
    if client.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return client.rfile.read(int(client.headers.get("Content-Length") or 0))
    chunks = []
    while size := int(client.rfile.readline().split(b";")[0], 16):
        chunks.append(client.rfile.read(size))
        client.rfile.readline()
    client.rfile.readline()
    return b"".join(chunks)
