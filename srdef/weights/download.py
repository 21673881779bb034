"""Fetch published files once into a cache folder, verified, and keep what was converted from them.

The cache is the folder `$SRDEF_CACHE`, or the user's cache folder. It holds a published file under its
published name, so a file that was fetched by hand can simply be put there, and beside it the same
weights in srdef's layout. A download that breaks off is kept under another name and continued. A server
that sends too much, or next to nothing, or takes too long is hung up on.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from srdef import cache, interrupts
from srdef.errors import InputError
from srdef.storage import locks
from srdef.weights.catalog import Download
from srdef.weights.connections import Connections

CHUNK = 1 << 18
ATTEMPTS = 3
# Before the second attempt; the next ones wait twice as long each.
PAUSE_SECONDS = 1.0
# Of a file whose size the catalogue does not have: twice that of the largest one.
LARGEST = 1 << 30
# What a server says when it may be asked again: a time-out, too many requests, its own troubles.
TRANSIENT = (408, 429, 500, 502, 503, 504)


class _BrokenOff(Exception):
    """A transfer that failed and may be continued."""


def cache_folder() -> Path:
    """The folder `$SRDEF_CACHE`, or srdef's place in the user's cache folder (`cache.folder`)."""
    return cache.folder()


def make_cache_folder() -> None:
    """Make the cache folder if there is none; InputError if that fails."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the cache folder {cache_folder()} ({error.strerror})") from None


def published_path(entry: Download) -> Path:
    """Where the published file of `entry` is, or will be, or can be put by hand."""
    return cache_folder() / entry.file


def converted_path(entry: Download) -> Path:
    """Where the weights of `entry` are kept in srdef's layout, once converted."""
    return cache_folder() / f"{entry.name}-{entry.variant}-{entry.digest.split(':')[1][:8]}.safetensors"


def verify(path: Path, digest: str, kind: str = "weights") -> None:
    """Compare the hash of a file with `ALGORITHM:DIGITS`, all digits or the first ones.

    `kind` says in messages what the file is.

    Raises
    ------
    InputError
        If they differ, or the file cannot be read.
    """
    algorithm, expected = digest.split(":")
    try:
        found = pooch.file_hash(str(path), alg=algorithm)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{kind} file {path}: cannot be read ({error.strerror})") from None
    if not found.startswith(expected):
        raise InputError(
            f"{kind} file {path}: {size} bytes with the {algorithm.upper()} {found}, expected {expected}: "
            "truncated, or not the published file"
        )


def _what(entry: Download) -> str:
    """What is fetched, in words."""
    return f"{entry.kind} of {entry.name}" if entry.kind == "weights" else f"{entry.kind} {entry.name!r}"


def fetch(entry: Download) -> Path:
    """The published file of `entry`, downloaded if it is not in the cache.

    Returns
    -------
    Path
        A whole and verified file.

    Raises
    ------
    InputError
        If there is no network, the server refuses, the transfer breaks off, or the file is not the
        published one; with the address and the place to put the file by hand.
    """
    path = published_path(entry)
    hint = f"fetch {entry.url} by hand and put it at {path}"
    if path.exists() and not path.is_file():
        raise InputError(f"{_what(entry)}: {path} is a folder or a device; move it away, then {hint}")
    if path.is_file():
        try:
            verify(path, entry.digest, entry.kind)
        except InputError as error:
            raise InputError(f"{_what(entry)}: {error}; delete it and try again, or {hint}") from None
        return path
    make_cache_folder()
    # One process fetches; the others of a cluster job wait, and find the file.
    with _locked(path.with_name(f".{path.name}.lock")):
        if not path.is_file():
            unfinished = path.with_name(f".{path.name}.part")
            try:
                _transfer(entry, unfinished)
                _accept(unfinished, path, entry)
            except InputError as error:
                raise InputError(f"{_what(entry)}: {error}; or {hint}") from None
    return path


def _accept(unfinished: Path, path: Path, entry: Download) -> None:
    """Give a whole download its name; one with a wrong hash is of no use and goes."""
    try:
        try:
            verify(unfinished, entry.digest, entry.kind)
        except InputError:
            unfinished.unlink(missing_ok=True)
            raise
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror})") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        file = path.open("wb")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror})") from None
    with file:
        locks.lock(file, path.parent, wait=True)
        yield


def _transfer(entry: Download, unfinished: Path) -> None:
    """Download to `unfinished`, behind what is there already; try again where it breaks off."""
    console = Console(stderr=True, markup=False)
    bar = Progress(
        TextColumn(entry.file, markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # in a log it would leave an empty line
    )
    with bar:
        task = bar.add_task(entry.file, total=None)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for done, total in _receive(entry.url, unfinished, entry.size or LARGEST):
                    interrupts.check()
                    bar.update(task, completed=done, total=total)
                return
            except _BrokenOff as error:
                if attempt == ATTEMPTS:
                    continues = unfinished.is_file() and unfinished.stat().st_size > 0
                    hint = "; the same command continues there" if continues else ""
                    raise InputError(f"{error}{hint}") from None
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))


def _receive(url: str, unfinished: Path, largest: int) -> Iterator[tuple[int, int | None]]:
    """One request; yields the bytes that are there and the bytes that there will be."""
    start = unfinished.stat().st_size if unfinished.is_file() else 0
    headers = {"User-Agent": "srdef", "Range": f"bytes={start}-"}
    with Connections() as connections:
        response = _open(connections, urllib.request.Request(url, headers=headers), start)
        if response is None:
            return
        with response:
            if response.status != 206:  # the server sends the whole file
                start = 0
            total = _total(response.headers.get("Content-Length"), start)
            if total is not None and total > largest:
                raise InputError(f"the server offers {total} bytes, and at most {largest} are expected")
            done = start
            try:
                with unfinished.open("ab" if start else "wb") as file:
                    while chunk := _read(connections, response, done):
                        file.write(chunk)
                        done += len(chunk)
                        if done > largest:
                            file.truncate(0)
                            raise InputError(f"the server sends more than the {largest} bytes expected")
                        yield done, total
            except OSError as error:
                raise InputError(f"cannot write {unfinished} ({error.strerror})") from None
        if total is not None and done < total:
            reason = connections.gave_up or "the transfer broke off"
            raise _BrokenOff(f"{reason} after {done} of {total} bytes")
        if connections.gave_up:
            raise _BrokenOff(f"{connections.gave_up} after {done} bytes")


def _open(
    connections: Connections, request: urllib.request.Request, start: int
) -> http.client.HTTPResponse | None:
    """The answer to a request; None if nothing is left to send."""
    try:
        return connections.open(request)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the hash will tell
            return None
        answer = f"the server answered {error.code} {error.reason!s:.200}"
        raise (_BrokenOff if error.code in TRANSIENT else InputError)(answer) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a malformed Location
        if connections.gave_up:
            raise _BrokenOff(connections.gave_up) from None
        cause = getattr(error, "reason", error)
        if isinstance(cause, ConnectionResetError | TimeoutError):
            raise _BrokenOff(f"the server hung up ({cause})") from None
        raise InputError(f"no connection ({cause!s:.200})") from None


def _total(length: str | None, start: int) -> int | None:
    """The size of the whole file, by the header Content-Length of what is still to come."""
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise InputError(f"the server gave the malformed Content-Length {length:.80}")
    return start + int(length)


def _read(connections: Connections, response: http.client.HTTPResponse, done: int) -> bytes:
    """What has arrived of the answer; nothing at its end."""
    try:
        chunk = response.read1(CHUNK)  # read() would wait until there is all of it
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = connections.gave_up or f"the transfer broke off ({error!s:.200})"
        raise _BrokenOff(f"{reason} after {done} bytes") from None
    connections.received += len(chunk)
    return chunk
