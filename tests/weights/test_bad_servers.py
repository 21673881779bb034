"""Servers that break the protocol, send too much, too little or too slowly: one line, in a bounded time."""

import hashlib
import itertools
import socket
import struct
import threading
import time

import pytest

from srdef.errors import InputError
from srdef.weights import catalog, connections, download

DATA = bytes(range(256)) * 40
SIZE = len(DATA)


class Server:
    """On loopback; gives each connection, once its request has come, to the next of `answers`."""

    def __init__(self, *answers):
        self.answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.requests = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed at the end of the test
                return
            threading.Thread(target=self.answer, args=(connection, next(self.answers)), daemon=True).start()

    def answer(self, connection, answer):
        with connection:
            connection.recv(1 << 16)
            self.requests += 1
            try:
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                else:
                    answer(connection)
            except OSError:  # the client has hung up
                pass


@pytest.fixture
def serve():
    servers = []

    def serve(*answers, size=SIZE):
        server = Server(*answers)
        servers.append(server)
        entry = catalog.Download(
            name="some_network",
            variant="test",
            url=f"http://127.0.0.1:{server.port}/weights.h5",
            digest=f"sha256:{hashlib.sha256(DATA).hexdigest()}",
            size=size,
            licence="none",
            origin="a test",
        )
        return server, entry

    yield serve
    for server in servers:
        server.listener.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(connections, "SLOWEST_SECONDS", 0.3)
    return tmp_path


def refusal(entry):
    """What `fetch` says, in one line without control characters, and in a bounded time."""
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        download.fetch(entry)
    assert time.monotonic() - start < 10
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 1000
    assert message.startswith("weights of some_network: ")
    return message


def headers(*lines, status="200 OK"):
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", "Connection: close", *lines, "")).encode()


WHOLE = headers(f"Content-Length: {len(DATA)}") + DATA


@pytest.mark.parametrize("length", ["banana", "-5", "9" * 30, "1 2", "\x1b[31m", "", "٣", "1e3", "0x10"])
def test_a_malformed_content_length(serve, length):
    server, entry = serve(headers(f"Content-Length: {length}") + DATA)
    assert "the server gave the malformed Content-Length" in refusal(entry)
    assert server.requests == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "http://127.0.0.1:banana/",
        "ftp://127.0.0.1/a",
        "file:///etc/passwd",
        "\x1b[2J",
        "",
        "//",
    ],
)
def test_a_malformed_location(serve, location):
    _, entry = serve(headers(f"Location: {location}", status="302 Found"))
    refusal(entry)


def test_a_redirection_to_itself(serve):
    _, entry = serve(headers("Location: /weights.h5", status="302 Found"))
    assert "302" in refusal(entry)


def test_a_redirection_is_followed(serve):
    _, entry = serve(headers("Location: /elsewhere", status="302 Found"), WHOLE)
    assert download.fetch(entry).read_bytes() == DATA


def test_control_characters_of_a_server(serve):
    _, entry = serve(headers(status="404 \x1b[31mred\x07" + "x" * 5000))
    assert r"the server answered 404 \x1b[31mred\x07xxx" in refusal(entry)


@pytest.mark.parametrize("answer", [b"", b"\0" * 100, b"HTTP/9.9 banana\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"])
def test_something_that_is_not_http(serve, answer):
    _, entry = serve(answer)
    refusal(entry)


def endless(connection):
    while True:
        connection.sendall(bytes(1 << 16))


def test_an_endless_body(serve, cache):
    """Of the catalogue's size, known or not, only; and of what came nothing is kept."""
    for size in (len(DATA), None):
        server, entry = serve(lambda c: (c.sendall(headers()), endless(c)), size=size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(download, "LARGEST", 100_000)
            assert f"more than the {size or 100_000} bytes expected" in refusal(entry)
        assert server.requests == 1
        assert (cache / ".weights.h5.part").stat().st_size == 0


def test_a_body_that_is_too_large_by_its_header(serve):
    _, entry = serve(headers(f"Content-Length: {10**15}") + DATA)
    assert f"the server offers {10**15} bytes, and at most {len(DATA)} are expected" in refusal(entry)


def test_endless_headers(serve):
    _, entry = serve(
        lambda c: (c.sendall(b"HTTP/1.1 200 OK\r\n"), [c.sendall(b"A: b\r\n") for _ in range(10**6)])
    )
    refusal(entry)


def drip(*before, byte=b"x"):
    """Send a byte every twentieth of a second; no time-out of a socket ever runs out."""

    def answer(connection):
        for data in before:
            connection.sendall(data)
        while True:
            connection.sendall(byte)
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(headers(f"Content-Length: {len(DATA)}")),
        drip(),
        drip(b"HTTP/1.1 200 OK\r\n"),
        drip(headers("Transfer-Encoding: chunked")),
        drip(headers("Transfer-Encoding: chunked"), b"0\r\n", byte=b"a\r\n"),
        lambda connection: time.sleep(5),
    ],
    ids=["body", "status", "headers", "length of a chunk", "trailer", "nothing"],
)
def test_a_byte_at_a_time(serve, answer):
    server, entry = serve(answer)
    message = refusal(entry)
    assert "the server sent only " in message or "broke off" in message
    assert server.requests == download.ATTEMPTS


def test_steadily_for_too_long(serve, monkeypatch):
    monkeypatch.setattr(connections, "SLOWEST_BYTES", 1)
    monkeypatch.setattr(connections, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    _, entry = serve(drip(headers(f"Content-Length: {len(DATA)}")))
    message = refusal(entry)
    assert "the server took more than 0.5 seconds after 1" in message
    assert f"of {len(DATA)} bytes; the same command continues there" in message


def reset(connection):
    """Close with RST: an option of the socket to throw away what is not sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_in_the_body(connection):
    connection.sendall(headers(f"Content-Length: {len(DATA)}") + DATA[:100])
    time.sleep(0.1)
    reset(connection)


@pytest.mark.parametrize(
    "trouble",
    [
        reset,
        reset_in_the_body,
        b"",
        *(headers(status=f"{code} No") for code in (408, 429, 500, 502, 503, 504)),
    ],
    ids=["reset", "reset in the body", "hung up", "408", "429", "500", "502", "503", "504"],
)
def test_passing_troubles_are_waited_for(serve, trouble):
    server, entry = serve(trouble, trouble, WHOLE)
    assert download.fetch(entry).read_bytes() == DATA
    assert server.requests == 3


def test_lasting_troubles_end_in_one_line(serve):
    server, entry = serve(reset)
    assert "the server hung up" in refusal(entry)
    assert server.requests == download.ATTEMPTS


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 501])
def test_other_answers_are_final(serve, code):
    server, entry = serve(headers(status=f"{code} No"))
    assert f"the server answered {code} No" in refusal(entry)
    assert server.requests == 1


@pytest.mark.parametrize("place", ["weights.h5", ".weights.h5.part", ".weights.h5.lock"])
def test_a_folder_where_a_file_should_be(serve, cache, place):
    _, entry = serve(WHOLE)
    (cache / place).mkdir()
    with pytest.raises(InputError) as error:
        download.fetch(entry)
    assert str(cache / place) in str(error.value)
    assert "\n" not in str(error.value)
