"""Images in the frequency domain: cosine and Fourier spectra, high-pass images, radial averages."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import fft

from srdef import images
from srdef.errors import InputError
from srdef.programs import jit
from srdef.validation import check_count


def cosine_transform(planes: jax.Array) -> jax.Array:
    """The orthonormal two-dimensional DCT-II of the last two axes; the lowest frequency is at [0, 0]."""
    return fft.dctn(planes, axes=(-2, -1), norm="ortho")


def inverse_cosine_transform(coefficients: jax.Array) -> jax.Array:
    """Inverse of `cosine_transform`."""
    return fft.idctn(coefficients, axes=(-2, -1), norm="ortho")


def scaled_transform(image: np.ndarray, scale: float) -> np.ndarray:
    """The DCT of luma of an image `(H, W, 3)` in [0, 1], `(H, W)` in levels of 255, divided by `scale`.

    An orthonormal transform of an image of s times the side has s times the coefficients; divided by s
    they are those of the smaller image at the same frequencies.
    """
    return np.asarray(cosine_transform(255 * images.luma(jnp.asarray(image)))) / scale


def log_magnitude(coefficients: jax.Array, floor: float = 1e-4) -> jax.Array:
    """`log10 |x|`, nothing below `log10(floor)`."""
    return jnp.log10(jnp.maximum(jnp.abs(coefficients), floor))


def cosine_radius(height: int, width: int) -> np.ndarray:
    """The frequency of each DCT coefficient, `(height, width)`: 1 is the highest along an axis.

    Coefficient k of an axis with n samples has k / n of the Nyquist frequency.
    """
    rows, columns = np.arange(height) / height, np.arange(width) / width
    return np.hypot(rows[:, None], columns)


def high_pass(image: jax.Array | np.ndarray, cutoff: float) -> jax.Array:
    """What is left of an image without its low frequencies, around 0.

    Section 3 of the paper (figure 3): the DCT coefficients of low frequency are set to zero, and the rest
    is transformed back.

    Parameters
    ----------
    image : array (H, W, 3) or (..., H, W, 3)
        In [0, 1].
    cutoff : float
        Coefficients of a lower frequency go, as a share of the Nyquist frequency.

    Raises
    ------
    InputError
        If the cutoff is not in [0, 1].
    """
    if not 0 <= cutoff <= 1:
        raise InputError(f"cutoff must lie in [0, 1], not {cutoff}")
    planes = jnp.moveaxis(jnp.asarray(image), -1, -3)
    coefficients = cosine_transform(planes)
    kept = cosine_radius(*planes.shape[-2:]) >= cutoff
    return jnp.moveaxis(inverse_cosine_transform(coefficients * kept), -3, -1)


def radial_average(values: np.ndarray, radius: np.ndarray, bins: int, highest: float = 1.0) -> np.ndarray:
    """The mean of `values` in rings of equal width around frequency 0.

    Parameters
    ----------
    values, radius : array (H, W)
        A number and a frequency for each coefficient.
    bins : int
        Rings between 0 and `highest`; what lies beyond (the corners) is left out.

    Returns
    -------
    array (bins,)
        nan for a ring with no coefficient.

    Raises
    ------
    InputError
        If the two arrays differ in shape, or there is no ring.
    """
    check_count("bins", bins)
    if np.shape(values) != np.shape(radius):
        raise InputError(f"values have the shape {np.shape(values)} and radius {np.shape(radius)}")
    # Where a ring begins, rounding would put a frequency into the ring before.
    index = np.floor(np.asarray(radius) * (bins / highest) + 1e-9).astype(int).ravel()
    inside = index < bins
    weights = np.asarray(values, np.float64).ravel()[inside]
    total = np.bincount(index[inside], weights, bins)
    count = np.bincount(index[inside], minlength=bins)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def ring_centres(bins: int, highest: float = 1.0) -> np.ndarray:
    """The middle of each ring of `radial_average`."""
    check_count("bins", bins)
    return (np.arange(bins) + 0.5) * (highest / bins)


def fourier_radius(height: int, width: int) -> np.ndarray:
    """The frequency of each coefficient of `fft2`, in cycles per pixel: at most 1/2 along an axis."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


@jit
def power_density(residuals: jax.Array) -> jax.Array:
    """The power spectrum of differences of images, averaged over the batch and the channels.

    Parameters
    ----------
    residuals : array (N, H, W, C)

    Returns
    -------
    array (H, W)
        `|fft2|² / (H W)`, unshifted: its mean is the mean squared residual (Parseval).
    """
    _, height, width, _ = residuals.shape
    power = jnp.square(jnp.abs(jnp.fft.fft2(residuals, axes=(1, 2)))) / (height * width)
    return power.mean(axis=(0, 3))


def residual_spectrum(
    changed: np.ndarray, reference: np.ndarray, bins: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """How strong a change is at which frequency, averaged over a data set and over directions.

    Where the changed images are larger by a factor, the references are enlarged by bicubic
    interpolation, and frequencies count per pixel of the *reference*, so that curves for images of two
    sizes can stand in one plot: 1/2 is the highest frequency that the reference can hold.

    Parameters
    ----------
    changed : float array (N, s·H, s·W, 3)
    reference : float array (N, H, W, 3)
    bins : int
        Rings from 0 to the highest frequency of `changed` along an axis, s/2.

    Returns
    -------
    frequency : array (bins,)
        Cycles per pixel of the reference.
    amplitude : array (bins,)
        Square root of the power density per (cycle per reference pixel)².

    Raises
    ------
    InputError
        If the sides of `changed` are not one multiple of those of `reference`.
    """
    height, width = reference.shape[1:3]
    scale = changed.shape[1] / height
    if changed.shape[2] * height != changed.shape[1] * width or len(changed) != len(reference):
        raise InputError(f"images {changed.shape} are not those of {reference.shape} enlarged by a factor")
    if scale != 1:
        reference = np.asarray(images.resize(reference, *changed.shape[1:3]))
    power = np.asarray(power_density(changed - reference)) / scale**2
    radius = scale * fourier_radius(*changed.shape[1:3])
    average = radial_average(power, radius, bins, highest=scale / 2)
    return ring_centres(bins, scale / 2), np.sqrt(average)
