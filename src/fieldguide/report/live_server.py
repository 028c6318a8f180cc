"""A live page for this machine alone: three addresses that are read, on 127.0.0.1.

Whatever is asked for under another host name than this machine's is refused, so that no page from elsewhere reads along
by giving its own name this address (DNS rebinding). The page may load nothing but its state.
"""

import json
import math
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from re import DOTALL, search
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fieldguide.errors import FieldguideError
from fieldguide.report.live import Live

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}
_PAGE = (files("fieldguide.report") / "templates" / "live.html").read_text(encoding="utf-8")
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<path d="M1 2c2 9 6 11 14 11" fill="none" stroke="#0072b2" stroke-width="2.5" stroke-linecap="round"/></svg>'
)


def _allowed(tag: str) -> str:
    """The one inline script or style of the page, by its hash."""
    found = search(f"<{tag}>(.*?)</{tag}>", _PAGE, DOTALL)
    assert found
    return f"'sha256-{b64encode(sha256(found[1].encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_allowed('script')}; style-src {_allowed('style')}; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class LiveServer(ThreadingHTTPServer):
    """Serves the page of a run at ``address``; ``serve_forever`` until it is interrupted.

    Raises FieldguideError when the port is taken; port 0 is any free one.
    """

    def __init__(self, live: Live, port: int = 0):
        self.live = live
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "there is no such port"
            raise FieldguideError(f"--port {port}: {reason}; choose another one, or 0 for any that is free") from None

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # that of HTTPServer asks a name server who 127.0.0.1 is
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # else the browser has gone, or says nothing
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "fieldguide", ""
    timeout = 30
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in _NAMES:  # the port may be that of a tunnel
            self.send_error(403, "this page is for this machine alone, as 127.0.0.1 or localhost")
            return
        address = urlsplit(self.path)
        answer = _ROUTES.get(address.path)
        if answer is None:
            self.send_error(404, "there is no such page")
            return
        since = parse_qs(address.query).get("since", ["0"])[-1]
        if not (since.isascii() and since.isdigit() and len(since) < 16):
            self.send_error(400, "since is a number of rows")
            return
        kind, body = answer(self.server.live, int(since))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


def _state(live: Live, since: int) -> tuple[str, bytes]:
    text = json.dumps(_finite(live.state(since)), ensure_ascii=False, allow_nan=False)
    return "application/json; charset=utf-8", text.encode(errors="replace")


def _finite(value: Any) -> Any:
    """The same with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_ROUTES: dict[str, Callable[[Live, int], tuple[str, bytes]]] = {
    "/": lambda live, since: ("text/html; charset=utf-8", _PAGE.encode()),
    "/icon.svg": lambda live, since: ("image/svg+xml", _ICON.encode()),
    "/state.json": _state,
}
