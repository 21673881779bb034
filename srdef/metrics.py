"""Numbers that a report gives: shares with their intervals, PSNR and SSIM."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError
from srdef.images import luma as luma_of
from srdef.programs import jit
from srdef.validation import check_count, check_flags, check_images, check_numbers

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


def wilson_interval(successes: float, total: float, z: float = Z_95) -> tuple[float, float]:
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
        Unless 0 <= successes <= total, and for a z that is negative or not finite.
    """
    check_numbers(z=z)
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


def accuracy_after_defense(clean_correct: np.ndarray, correct: np.ndarray) -> Rate:
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


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: the chance that a positive has a higher score than a negative.

    Ties count half (Mann and Whitney). nan if one of the two kinds is missing.

    Parameters
    ----------
    scores : (N,) float
    positive : (N,) bool

    Raises
    ------
    InputError
        If the two are not of one length, or a score is NaN.
    """
    scores, positive = np.asarray(scores), _mask(positive, "positive")
    if scores.shape != positive.shape:
        raise InputError(f"scores have the shape {scores.shape} and positive {positive.shape}")
    if np.isnan(scores).any():
        raise InputError("scores with NaN have no order")
    above = np.sort(scores[~positive])
    if not len(above) or positive.all() or not positive.any():
        return float("nan")
    low = np.searchsorted(above, scores[positive], side="left")
    high = np.searchsorted(above, scores[positive], side="right")
    return float((low + high).mean() / (2 * len(above)))


def _mask(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype != bool or values.ndim != 1:
        raise InputError(f"{name} must be a boolean array of one axis, not {values.dtype} {values.shape}")
    return values


def _image_pair(
    name: str, a: np.ndarray, b: np.ndarray, border: int, luma: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of one shape `(..., H, W, 3)`, of floats in [0, 1]; InputError says which is not."""
    check_count(f"{name}: border", border, least=0)
    check_flags(luma=luma)
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise InputError(f"{name} of images of different shapes: {a.shape} and {b.shape}")
    for which, images in (("first", a), ("second", b)):
        try:
            if images.ndim < 3 or images.shape[-1] not in (1, 3):
                shape = "(..., height, width, 3), or with one channel"
                raise InputError(f"images must have the shape {shape}, not {images.shape}")
            if luma and images.shape[-1] != 3:
                raise InputError("images with one channel have no Y of their own: leave out luma")
            check_images(images.reshape(-1, *images.shape[-3:]))
        except InputError as error:
            raise InputError(f"{name}, {which} argument: {error}") from None
    return a, b


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
        If the shapes differ, the border leaves nothing, or an argument is not of floats in [0, 1] (of 8 bits:
        divide by 255).
    """
    a, b = _image_pair("PSNR", a, b, border, luma)
    height, width = a.shape[-3:-1]
    if not 2 * border < min(height, width):
        raise InputError(f"border {border} leaves nothing of {height}x{width} pixels")
    if luma:
        a, b = (np.asarray(luma_of(jnp.asarray(image, jnp.float32)))[..., None] for image in (a, b))
    inside = (..., slice(border, height - border), slice(border, width - border), slice(None))
    difference = np.asarray(a, np.float64)[inside] - np.asarray(b, np.float64)[inside]
    with np.errstate(divide="ignore"):
        return -10 * np.log10(np.mean(difference**2, axis=(-3, -2, -1)))


# Wang et al. (2004): a Gaussian window of 11 pixels and its standard deviation, and the two constants that
# keep the quotients finite, as shares of the peak.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def ssim(a: np.ndarray, b: np.ndarray, *, border: int = 0, luma: bool = False) -> np.ndarray:
    """Mean structural similarity, with the peak at 1, over the windows that lie wholly inside.

    (2 µa µb + c1)(2 σab + c2) / ((µa² + µb² + c1)(σa² + σb² + c2)), with means, variances and covariance
    under an 11x11 Gaussian window of σ = 1.5, c1 = 0.01² and c2 = 0.03²: Wang, Bovik, Sheikh, Simoncelli,
    "Image quality assessment: from error visibility to structural similarity", 2004, equation 13; their
    `ssim_index.m` without its downsampling, which the super-resolution literature uses. On RGB the mean
    over the channels.

    Parameters
    ----------
    a, b : (..., H, W, 3) float
        Images in [0, 1].
    border : int
        Pixels left out on each side; the super-resolution literature leaves out `scale`.
    luma : bool
        Compare only the Y of BT.601 YCbCr (range 16 to 235; the peak is still 1, that is 255).

    Returns
    -------
    (...) float64
        At most 1, which equal images have. Computed in float32.

    Raises
    ------
    InputError
        If the shapes differ, fewer than 11 pixels a side are left, or an argument is not of floats in [0, 1]
        (of 8 bits: divide by 255).
    """
    a, b = _image_pair("SSIM", a, b, border, luma)
    height, width = a.shape[-3:-1]
    if min(height, width) - 2 * border < SSIM_WINDOW:
        raise InputError(
            f"SSIM needs {SSIM_WINDOW} pixels a side; border {border} leaves less of {height}x{width} pixels"
        )
    inside = (..., slice(border, height - border), slice(border, width - border), slice(None))
    a, b = (np.asarray(image, np.float32)[inside] for image in (a, b))
    return np.asarray(_mean_ssim(a, b, luma), np.float64)


@partial(jit, static_argnums=2)
def _mean_ssim(a: jax.Array, b: jax.Array, luma: bool) -> jax.Array:
    if luma:
        a, b = (luma_of(image)[..., None] for image in (a, b))
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    gaussian = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    gaussian /= gaussian.sum()

    def smooth(x: jax.Array) -> jax.Array:
        """Sums of shifted slices: exact float32 on any device, and fused by XLA."""
        for axis in (x.ndim - 3, x.ndim - 2):
            length = x.shape[axis] - SSIM_WINDOW + 1
            slices = (jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(SSIM_WINDOW))
            x = sum((float(g) * part for g, part in zip(gaussian, slices, strict=True)), jnp.zeros(()))
        return x

    # The second moments about the middle grey, not about 0: their difference with the squared mean then
    # loses fewer digits.
    mean_a, mean_b = smooth(a - 0.5), smooth(b - 0.5)
    variances = smooth(jnp.square(a - 0.5) + jnp.square(b - 0.5)) - jnp.square(mean_a) - jnp.square(mean_b)
    covariance = smooth((a - 0.5) * (b - 0.5)) - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    brightness = (2 * mean_a * mean_b + c1) / (jnp.square(mean_a) + jnp.square(mean_b) + c1)
    similarity = brightness * (2 * covariance + c2) / (variances + c2)
    return similarity.mean(axis=(-3, -2, -1))
