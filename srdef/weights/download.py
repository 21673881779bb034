"""Fetch published weights once into a cache folder, verified, and keep what was converted from them.

The cache is the folder `$SRDEF_CACHE`, or the user's cache folder. It holds a published file under its
published name, so a file that was fetched by hand can simply be put there, and beside it the same
weights in srdef's layout. A download that breaks off is kept under another name and continued.
"""

import fcntl
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from srdef.errors import InputError
from srdef.weights.catalog import Download

CHUNK = 1 << 18
TIMEOUT_SECONDS = 30
ATTEMPTS = 3


class _BrokenOff(Exception):
    """A transfer that ended too early and may be continued."""


def cache_folder() -> Path:
    """The folder `$SRDEF_CACHE`, or srdef's place in the user's cache folder (`pooch.os_cache`)."""
    return Path(os.environ.get("SRDEF_CACHE") or pooch.os_cache("srdef")).expanduser()


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


def verify(path: Path, digest: str) -> None:
    """Compare the hash of a file with `ALGORITHM:DIGITS`, all digits or the first ones.

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
        raise InputError(f"weights file {path}: cannot be read ({error.strerror})") from None
    if not found.startswith(expected):
        raise InputError(
            f"weights file {path}: {size} bytes with the {algorithm.upper()} {found}, expected {expected}: "
            "truncated, or not the published file"
        )


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
    if path.is_file():
        try:
            verify(path, entry.digest)
        except InputError as error:
            raise InputError(
                f"weights of {entry.name}: {error}; delete it and try again, or {hint}"
            ) from None
        return path
    make_cache_folder()
    # One process fetches; the others of a cluster job wait, and find the file.
    with _locked(path.with_name(f".{path.name}.lock")):
        if not path.is_file():
            unfinished = path.with_name(f".{path.name}.part")
            try:
                _transfer(entry, unfinished)
                _accept(unfinished, path, entry.digest)
            except InputError as error:
                raise InputError(f"weights of {entry.name}: {error}; or {hint}") from None
    return path


def _accept(unfinished: Path, path: Path, digest: str) -> None:
    """Give a whole download its name; one with a wrong hash is of no use and goes."""
    try:
        verify(unfinished, digest)
    except InputError:
        unfinished.unlink()
        raise
    os.replace(unfinished, path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        lock = path.open("w")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror})") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _transfer(entry: Download, unfinished: Path) -> None:
    """Download to `unfinished`, behind what is there already; try again where it breaks off."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(entry.file),
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
                for done, total in _receive(entry.url, unfinished):
                    bar.update(task, completed=done, total=total)
                return
            except _BrokenOff as error:
                if attempt == ATTEMPTS:
                    raise InputError(f"{error}; the same command continues there") from None


def _receive(url: str, unfinished: Path) -> Iterator[tuple[int, int | None]]:
    """One request; yields the bytes that are there and the bytes that there will be."""
    start = unfinished.stat().st_size if unfinished.is_file() else 0
    headers = {"User-Agent": "srdef", "Range": f"bytes={start}-"}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send; the hash will tell
            return
        raise InputError(f"the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"no connection ({getattr(error, 'reason', error)})") from None
    with response:
        if response.status != 206:  # the server sends the whole file
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        done = start
        try:
            with unfinished.open("ab" if start else "wb") as file:
                while chunk := _read(response, done):
                    file.write(chunk)
                    done += len(chunk)
                    yield done, total
        except OSError as error:
            raise InputError(f"cannot write {unfinished} ({error.strerror})") from None
    if total is not None and done < total:
        raise _BrokenOff(f"the transfer broke off after {done} of {total} bytes")


def _read(response: http.client.HTTPResponse, done: int) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(f"the transfer broke off after {done} bytes ({error})") from None
