"""Numbers that a report gives: shares with their intervals, and PSNR."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError
from srdef.images import luma as luma_of

# The 97.5 % quantile of the normal distribution: two-sided 95 % intervals.
Z_95 = 1.959963984540054


class Rate(NamedTuple):
    """A share of images, with its 95 % Wilson interval.

    Attributes
    ----------
    successes, total : int
        Numerator and denominator.
    value : float
        successes / total; nan if total is 0.
    low, high : float
        Ends of the interval; 0 and 1 if total is 0.
    """

    successes: int
    total: int
    value: float
    low: float
    high: float


def wilson_interval(successes: float, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion.

    (p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n), with p = successes / n: E. B. Wilson,
    "Probable inference, the law of succession, and statistical inference", 1927.

    Returns
    -------
    (low, high) : tuple of float
        In [0, 1]; (0, 1) if `total` is 0.

    Raises
    ------
    InputError
        Unless 0 <= successes <= total.
    """
    if not 0 <= successes <= total:
        raise InputError(f"{successes} successes of {total} is not a proportion")
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # At the ends the interval touches 0 or 1 exactly; rounding would leave it at 1e-17.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == total else (centre + spread) / scale
    return low, high


def rate(successes: np.ndarray) -> Rate:
    """The share of True in a boolean array `(N,)`: of `predictions == labels`, the accuracy."""
    successes = _mask(successes, "successes")
    count, total = int(successes.sum()), len(successes)
    return Rate(count, total, count / total if total else math.nan, *wilson_interval(count, total))


def destruction_rate(clean_correct: np.ndarray, correct: np.ndarray) -> Rate:
    """The share of the clean-correct images that are classified correctly after attack and defense.

    The paper's "destruction rate" (section 4.2; of adversarial images destroyed, so higher is
    better for the defender): its images are all classified correctly when clean, so that is the
    denominator; an image that the classifier never had right counts neither way.

    Parameters
    ----------
    clean_correct, correct : (N,) bool
        Whether each image is classified correctly when clean and undefended, and at the end.
    """
    clean_correct = _mask(clean_correct, "clean_correct")
    correct = _mask(correct, "correct")
    if len(clean_correct) != len(correct):
        raise InputError(f"clean_correct has {len(clean_correct)} images and correct {len(correct)}")
    return rate(correct[clean_correct])


def _mask(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype != bool or values.ndim != 1:
        raise InputError(f"{name} must be a boolean array of one axis, not {values.dtype} {values.shape}")
    return values


def psnr(a: np.ndarray, b: np.ndarray, *, border: int = 0, luma: bool = False) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, with the peak at 1.

    Parameters
    ----------
    a, b : (..., H, W, 3) float
        Images in [0, 1].
    border : int
        Pixels left out on each side; the super-resolution literature leaves out `scale`.
    luma : bool
        Compare only the Y of BT.601 YCbCr (range 16 to 235), as that literature does.

    Returns
    -------
    (...) float64
        Infinite for equal images.

    Raises
    ------
    InputError
        If the shapes differ, or the border leaves nothing.
    """
    if a.shape != b.shape:
        raise InputError(f"PSNR of images of different shapes: {a.shape} and {b.shape}")
    height, width = a.shape[-3:-1]
    if not 0 <= 2 * border < min(height, width):
        raise InputError(f"border {border} leaves nothing of {height}x{width} pixels")
    if luma:
        a, b = (np.asarray(luma_of(jnp.asarray(image, jnp.float32)))[..., None] for image in (a, b))
    inside = (..., slice(border, height - border), slice(border, width - border), slice(None))
    difference = np.asarray(a, np.float64)[inside] - np.asarray(b, np.float64)[inside]
    with np.errstate(divide="ignore"):
        return -10 * np.log10(np.mean(difference**2, axis=(-3, -2, -1)))
