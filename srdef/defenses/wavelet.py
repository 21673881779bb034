"""Wavelet denoising with BayesShrink or VisuShrink thresholds (the paper's section 3-B)."""

from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from srdef import images
from srdef.defenses import wavelet_transform
from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_integer, check_number, check_rgb
from srdef.errors import InputError

Method = Literal["BayesShrink", "VisuShrink"]
Mode = Literal["soft", "hard"]
Color = Literal["ycbcr", "rgb"]
SigmaScaling = Literal["rescaled", "channel"]
Transform = Literal["polyphase", "jaxwt"]

_CHOICES = {
    "method": ("BayesShrink", "VisuShrink"),
    "mode": ("soft", "hard"),
    "color": ("ycbcr", "rgb"),
    "sigma_scaling": ("rescaled", "channel"),
    "transform": tuple(wavelet_transform.TRANSFORMS),
}


# The third quartile of the standard normal distribution.
_QUARTILE = 0.6744897501960817

# Rounding leaves about 1e-7 where exact arithmetic gives a coefficient of zero (8-bit images have
# many), and whether a coefficient is zero decides whether it counts in the median.
_ZERO = 1e-6


def _ycbcr_matrix() -> np.ndarray:
    """The (3, 3) matrix of `images.rgb_to_ycbcr`, without its offset (which denoising ignores)."""
    with jax.ensure_compile_time_eval():
        matrix = images.rgb_to_ycbcr(jnp.eye(3)) - images.rgb_to_ycbcr(jnp.zeros(3))
    return np.asarray(matrix, np.float64).T


def _mix(matrix: np.ndarray, channels: jax.Array) -> jax.Array:
    """The matrix times the channels (3, H, W): sums, as XLA's CPU matrix product of this shape is slow."""
    return jnp.stack([sum(float(w) * c for w, c in zip(row, channels, strict=True)) for row in matrix])


def _estimate_sigma(diagonal: jax.Array) -> jax.Array:
    """Noise deviation of each channel: the median of the non-zero |coefficients| / 0.6745.

    Zero where all coefficients are (scikit-image returns NaN there).
    """
    magnitude = jnp.abs(diagonal).reshape(diagonal.shape[0], -1)
    nonzero = magnitude > _ZERO
    count = jnp.sum(nonzero, axis=1, keepdims=True)
    ordered = jnp.sort(jnp.where(nonzero, magnitude, jnp.inf), axis=1)
    middle = jnp.concatenate([jnp.maximum(count - 1, 0) // 2, count // 2], axis=1)
    middle = jnp.minimum(middle, magnitude.shape[1] - 1)
    median = jnp.take_along_axis(ordered, middle, axis=1).mean(axis=1)
    return jnp.where(count[:, 0] > 0, median, 0.0) / _QUARTILE


def _shrink(band: jax.Array, sigma: jax.Array, method: Method, mode: Mode, size: int) -> jax.Array:
    """Threshold one band (C, h, w) of the coefficients, with sigma (C,); `size` is that of the image."""
    if method == "BayesShrink":
        variance = sigma**2
        signal = jnp.mean(band**2, axis=(1, 2)) - variance
        threshold = variance / jnp.sqrt(jnp.maximum(signal, np.finfo(band.dtype).eps))
    else:
        threshold = sigma * np.sqrt(2 * np.log(size)).astype(np.float32)
    threshold = threshold[:, None, None]
    if mode == "soft":
        return jnp.sign(band) * jnp.maximum(jnp.abs(band) - threshold, 0)
    return jnp.where(jnp.abs(band) >= threshold, band, 0)


@REGISTRY.register("wavelet")
@flax.struct.dataclass
class Wavelet:
    """Denoise by shrinking wavelet coefficients, with thresholds chosen from the data.

    Deterministic, differentiable, same size. Some attacks use the identity as its surrogate.

    Equal to scikit-image's `denoise_wavelet(..., channel_axis=-1, rescale_sigma=True)` (0.16 and
    later), with the result clipped to [0, 1].

    Parameters
    ----------
    sigma : float or None
        Standard deviation of the noise, in units of the [0, 1] range; None estimates it for each
        channel from the finest diagonal coefficients. Leaf.
    wavelet : str
        Any orthogonal wavelet of PyWavelets.
    levels : int, optional
        Default, as in scikit-image: three fewer than the deepest level, at least one.
    method : "BayesShrink" or "VisuShrink"
        A threshold for each band, sigma^2 / sqrt(max(mean(d^2) - sigma^2, eps)) (Chang, Yu and
        Vetterli 2000), or the universal one, sigma * sqrt(2 log(number of pixels)) (Donoho and
        Johnstone 1994).
    mode : "soft" or "hard"
    color : "ycbcr" or "rgb"
        The channels that are denoised: "rgb" are those of the image, whatever their number. A gray image,
        which has only one, is denoised as it is.
    sigma_scaling : "rescaled" or "channel"
        With `color="ycbcr"` each channel is scaled to [0, 1] by its own minimum and maximum before
        it is denoised. "rescaled" (scikit-image 0.16 and later) carries sigma through the colour
        matrix and that scaling, so that it stays the noise of the RGB image; "channel"
        (scikit-image before 0.16, with which the paper's results were made) uses sigma as it is
        on the scaled channels. With `color="rgb"` nothing is scaled, and both mean the same.
    transform : "polyphase" or "jaxwt"
        Who computes the wavelet transform: strided slices, or the library jaxwt, with the same
        coefficients; the slices are several times faster on a CPU.

    Raises
    ------
    InputError
        For an unknown wavelet, method, mode, colour or scaling, for levels < 1, and for a
        sigma that is negative or no number.
    """

    sigma: float | jax.Array | None = 0.04
    wavelet: str = flax.struct.field(pytree_node=False, default="db1")
    levels: int | None = flax.struct.field(pytree_node=False, default=None)
    method: Method = flax.struct.field(pytree_node=False, default="BayesShrink")
    mode: Mode = flax.struct.field(pytree_node=False, default="soft")
    color: Color = flax.struct.field(pytree_node=False, default="ycbcr")
    sigma_scaling: SigmaScaling = flax.struct.field(pytree_node=False, default="rescaled")
    transform: Transform = flax.struct.field(pytree_node=False, default="polyphase")

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        wavelet_transform.filters(self.wavelet)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"wavelet: unknown {name} {getattr(self, name)!r}; choose from: {', '.join(choices)}"
                )
        if self.levels is not None:
            check_integer("wavelet", "levels", self.levels, 1)
        if self.sigma is not None:
            check_number("wavelet", "sigma", self.sigma, 0)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Denoise one image, (H, W, channels) in [0, 1]."""
        count = image.shape[-1]
        # Channels first: the transform's inner loop then runs over a long axis.
        channels = jnp.moveaxis(image, -1, 0)
        sigma = None if self.sigma is None else jnp.broadcast_to(jnp.asarray(self.sigma, image.dtype), count)
        if self.color == "rgb" or count == 1:
            denoised = self._denoise(channels, sigma)
        else:
            check_rgb('wavelet with color="ycbcr"', image, '; take color="rgb"')
            matrix = _ycbcr_matrix()
            denoised = _mix(np.linalg.inv(matrix), self._denoise_scaled(_mix(matrix, channels), sigma))
        return jnp.clip(jnp.moveaxis(denoised, 0, -1), 0, 1)

    def _denoise_scaled(self, channels: jax.Array, sigma: jax.Array | None) -> jax.Array:
        """Denoise Y, Cb and Cr, each scaled to [0, 1] by its own minimum and maximum."""
        low = channels.min(axis=(1, 2), keepdims=True)
        span = channels.max(axis=(1, 2), keepdims=True) - low
        # A constant channel has nothing to denoise, and must not divide by zero.
        constant = span == 0
        span = jnp.where(constant, 1, span)
        if sigma is not None and self.sigma_scaling == "rescaled":
            # The deviation of a weighted sum of R, G and B with independent noise of deviation sigma.
            gain = np.linalg.norm(_ycbcr_matrix(), axis=1).astype(np.float32)
            sigma = sigma * gain / span[:, 0, 0]
        denoised = self._denoise((channels - low) / span, sigma) * span + low
        return jnp.where(constant, channels, denoised)

    def _denoise(self, channels: jax.Array, sigma: jax.Array | None) -> jax.Array:
        """Denoise (C, H, W) with sigma (C,)."""
        _, height, width = channels.shape
        levels = self.levels
        if levels is None:
            levels = max(wavelet_transform.max_level(height, width, self.wavelet) - 3, 1)
        decompose, reconstruct = wavelet_transform.TRANSFORMS[self.transform]
        approximation, details = decompose(channels, self.wavelet, levels)
        if sigma is None:
            sigma = _estimate_sigma(details[0].diagonal)
        shrunk = [
            wavelet_transform.Level(
                *(_shrink(band, sigma, self.method, self.mode, height * width) for band in level)
            )
            for level in details
        ]
        return reconstruct(approximation, shrunk, self.wavelet)[:, :height, :width]
