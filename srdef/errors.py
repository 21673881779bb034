"""The errors and the warning that srdef raises."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def printable(text: str) -> str:
    r"""`text` with every control character escaped (`\x1b`, `\n`), so that it is one line of a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class InputError(ValueError):
    """Bad input, explained in one line that names what is wrong and the valid choices.

    Experiment scripts print the message without a traceback and exit with code 2. What a file or a server
    put into the message cannot control the terminal: see `printable`.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)))


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Say before the message of an InputError where it was, a field of a configuration for instance."""
    try:
        yield
    except InputError as error:
        if type(error) is not InputError or str(error).startswith("config."):
            raise
        raise InputError(f"{where}: {error}") from None


def name_of(network: object) -> str:
    """What a message calls a network: its class, also of a model that was wrapped, or a function's name."""
    name = getattr(network, "model_name", getattr(network, "__name__", type(network).__name__))
    return str(name).replace("<lambda>", "a function")


def not_taken(
    name: str, shape: tuple[int, ...], error: Exception, made: str = "", advice: str = ""
) -> InputError:
    """What to raise for whatever a network has raised about images of a shape that it does not take."""
    size, reason = "x".join(map(str, shape)), " ".join(str(error).split())
    return InputError(
        f"{name} does not take images of {size}{made}: {type(error).__name__}: {reason[:300]}{advice}"
    )


class OutOfMemoryError(InputError, MemoryError):
    """What was asked for needs more memory than the device has; the message says what needs less."""


class SrdefWarning(UserWarning):
    """What is likely to mislead: a gradient that is zero where it should not be, or files left out."""


def warn(message: str) -> None:
    """Give a `SrdefWarning`, which names the line outside of srdef that has led to it."""
    frame: FrameType | None = sys._getframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "srdef":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SrdefWarning, stacklevel=level + 1)
