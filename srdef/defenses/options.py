"""Checks of the numbers that defenses are built with: InputError in one line that names the option."""

from numbers import Integral, Real
from typing import Any

import numpy as np

from srdef.errors import InputError


def check_rgb(owner: str, image: Any, instead: str = "") -> None:
    """InputError for an image (H, W, channels) without three channels; `instead` says what would take it."""
    if image.shape[-1] != 3:
        raise InputError(f"{owner} takes RGB images, and not of {image.shape[-1]} channels{instead}")


def check_integer(owner: str, name: str, value: Any, low: int, high: int | None = None) -> None:
    """InputError unless a static option is a whole number, of Python or NumPy, from `low` to `high`.

    Parameters
    ----------
    owner, name : str
        The defense and its option, for the message.
    value : object
        What was given.
    low : int
    high : int, optional
        Default: no limit.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InputError(f"{owner}: {name} must be a whole number and {limits}, not {value!r}")


def check_number(
    owner: str,
    name: str,
    value: Any,
    low: float,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    whole: bool = False,
) -> None:
    """InputError unless a number that is a leaf lies in its range; finite, and not NaN.

    JAX puts its own arrays, tracers and placeholders where the leaves of a pytree are, and builds it anew
    with them: those are left alone, since their values are not known or not meant.

    Parameters
    ----------
    owner, name : str
        The defense and its option, for the message.
    value : object
        What was given; NumPy arrays are checked in all their elements.
    low, high : float
        The range, its ends included.
    open_low, open_high : bool
        Whether that end is left out.
    whole : bool
        Whether the number must be an integer (a float such as 3.0 is one).
    """
    if isinstance(value, Real | np.ndarray):
        number = np.asarray(value)
        right = np.isfinite(number) & (number > low if open_low else number >= low)
        right &= number < high if open_high else number <= high
        if whole:
            right &= number == np.round(number)
        if right.all():
            return
    elif value is not None and not isinstance(value, str | bytes | complex | list | tuple | dict):
        return
    kind = "whole number" if whole else "number"
    ends = f"{'above' if open_low else 'from'} {low:g}"
    if np.isfinite(high):
        ends += f" to {'below ' if open_high else ''}{high:g}"
    raise InputError(f"{owner}: {name} must be a {kind} {ends}, not {value!r}")
