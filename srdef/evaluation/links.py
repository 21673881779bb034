"""Where the processes of a run meet, and a connection between two of them: one JSON object a line."""

import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from srdef.errors import InputError

# After so many seconds without a sign of the other machine a connection counts as broken.
SILENCE = 60

# The longest line that is read, as a stranger's could fill the memory. 100,000 numbers of batches fit.
_LONGEST = 1_000_000

# So long a stranger who connects may say nothing, in seconds.
_GREETING = 10


@dataclass(frozen=True)
class Place:
    """Which of several processes this one is, and where they meet.

    Attributes
    ----------
    coordinator : str
        HOST:PORT at which process 0 listens; the same for all.
    processes, process : int
        How many there are, and the number of this one, from 0.
    """

    coordinator: str
    processes: int
    process: int

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            raise InputError(f"--coordinator must be HOST:PORT, not {self.coordinator!r}")
        if self.processes < 1:
            raise InputError(f"--processes must be at least 1, not {self.processes}")
        if not 0 <= self.process < self.processes:
            raise InputError(f"--process must be one of 0 to {self.processes - 1}, not {self.process}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def listen(self) -> socket.socket:
        """The server of process 0; InputError if the address cannot be used."""
        host, port = self.address
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            # Another name of this machine may lead here from elsewhere only: then listen at all addresses.
            own = str(address[0]).startswith("127.") or address[0] == "::1"
            server = socket.socket(family, kind, protocol)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address[0] if own else "", port))
            server.listen(self.processes)
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen at {self.coordinator} ({error.strerror or error}); choose another "
                "--coordinator"
            ) from None
        return server

    def connect(self) -> "Link":
        """A connection to process 0; OSError if it does not listen yet."""
        connection = socket.create_connection(self.address, timeout=_GREETING)
        connection.settimeout(None)
        return Link(connection)


class Link:
    """A connection to another process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()
        _notice_silence(connection)

    def send(self, **message: Any) -> None:
        """Send one message; whoever reads a broken connection notices it."""
        with self._sending, suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> dict[str, Any] | None:
        """The next message; None when the other side is gone, or speaks another language."""
        try:
            line = self._lines.readline(_LONGEST)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def read_greeting(self) -> dict[str, Any]:
        """The first message; empty if none comes for some seconds."""
        self._connection.settimeout(_GREETING)
        message = self.read()
        self._connection.settimeout(None)
        return message or {}

    def close(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _notice_silence(connection: socket.socket) -> None:
    """Let the operating system ask whether the other machine is there, however busy this process is."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # its name on macOS
    options = {
        idle: SILENCE // 2,  # seconds without a message
        "TCP_KEEPINTVL": SILENCE // 6,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 1000 * SILENCE,  # milliseconds without an answer to one; Linux only
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def this_process() -> str:
    """Machine and process id, for people."""
    return f"{socket.gethostname()}, process id {os.getpid()}"
