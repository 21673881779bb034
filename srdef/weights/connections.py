"""HTTP connections that end in a bounded time."""

import http.client
import socket
import threading
import time
import urllib.request
from contextlib import suppress

TIMEOUT_SECONDS = 30
# A server that sends fewer bytes than these in so many seconds is hung up on, and so is one after an hour.
SLOWEST_BYTES = 1 << 15
SLOWEST_SECONDS = 30.0
LONGEST_SECONDS = 3600.0


class Connections:
    """Opens addresses over HTTP, and hangs up on a server that is too slow, wherever one waits for it.

    A time-out of the socket is not enough: a server that sends a byte a second, be it of the headers or of
    the length of a chunk, never lets it run out. Whoever reads adds to `received`; `gave_up` says why the
    server was hung up on, if it was.
    """

    def __init__(self) -> None:
        self.received = 0
        self.gave_up: str | None = None
        self._sockets: list[socket.socket] = []
        self._finished = threading.Event()
        self._opener = urllib.request.OpenerDirector()
        for handler in self._handlers():
            self._opener.add_handler(handler)

    def __enter__(self) -> "Connections":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()

    def open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """The answer to a request, after redirections; raises what urllib and http.client raise."""
        return self._opener.open(request, timeout=TIMEOUT_SECONDS)

    def _handlers(self) -> tuple[urllib.request.BaseHandler, ...]:
        """Those of urllib for HTTP and nothing else, and they tell which sockets they have opened."""
        sockets = self._sockets

        class Plain(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class Encrypted(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Plain, request)

        class EncryptedHandler(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Encrypted, request)

        return (
            PlainHandler(),
            EncryptedHandler(),
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        )

    def _watch(self) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        before = 0
        while not self._finished.wait(min(SLOWEST_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                self.gave_up = f"the server took more than {LONGEST_SECONDS:g} seconds"
            elif self.received - before < SLOWEST_BYTES:
                count = self.received - before
                self.gave_up = f"the server sent only {count} bytes in {SLOWEST_SECONDS:g} seconds"
            before = self.received
            if self.gave_up:
                break
        while self.gave_up and not self._finished.wait(0.1):  # also what is opened meanwhile
            for opened in list(self._sockets):
                with suppress(OSError):  # closed already; of TLS, the socket below it
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)
