"""Ctrl-C that ends a run between two pieces of its work, never in the middle of one.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a callback of JAX it is
swallowed, and the run goes on. Here Ctrl-C only sets a flag, and the loops of srdef look at it with `check`.
A thread of its own reads the signals, so that a second Ctrl-C is heard while XLA compiles.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

EXIT_CODE = 130  # what a shell reports of a command that SIGINT ended

_asked = threading.Event()
_deferred = threading.Event()


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed; called between batches and steps."""
    if _asked.is_set():
        raise KeyboardInterrupt


def install() -> None:
    """Hear Ctrl-C from now on; until `deferred` it ends the process at once, without a traceback.

    Does nothing in a thread that is not the main one, and in a process that ignores SIGINT (`nohup`, `&`).
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reading,), name="interrupts", daemon=True).start()


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block the first Ctrl-C only makes `check` raise; the second ends the process."""
    _deferred.set()
    try:
        yield
    finally:
        _deferred.clear()


def _listen(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number == signal.SIGINT:
                _hear()


def _hear() -> None:
    if _deferred.is_set() and not _asked.is_set():
        _asked.set()
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
        return
    leave("\nstopped", EXIT_CODE)


def leave(words: str, code: int) -> NoReturn:
    """Say why, and end the process at once from any thread, whatever the main thread does."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # a progress bar has hidden the cursor
    os.write(2, f"{words}\n".encode())  # past buffers that the main thread may hold
    os._exit(code)
