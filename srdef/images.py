"""Arithmetic on images: 8-bit rounding, colour spaces and resizing.

An image is float32 `(height, width, 3)`, RGB, in [0, 1]; every function here also takes leading
batch axes unless it says otherwise.
"""

from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError

ResizeMethod = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Border = Literal["renormalize", "symmetric"]


def to_uint8(images: jax.Array | np.ndarray) -> np.ndarray:
    """Round [0, 1] to the nearest of the 256 levels; returns a NumPy array of uint8.

    Raises
    ------
    InputError
        For integers, which are levels already, and NaN.
    """
    images = np.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"only floats in [0, 1] are rounded to 8 bits, not {images.dtype}")
    levels = np.rint(images.astype(np.float32) * 255)
    if np.isnan(levels).any():
        raise InputError("images with NaN cannot be rounded to 8 bits")
    return np.clip(levels, 0, 255).astype(np.uint8)


def from_uint8(images: np.ndarray) -> np.ndarray:
    """uint8 levels as float32 in [0, 1]; InputError for another type."""
    if images.dtype != np.uint8:
        raise InputError(f"8-bit levels must be uint8, not {images.dtype}")
    return images.astype(np.float32) / np.float32(255)


def round_to_8_bits(images: jax.Array) -> jax.Array:
    """Round to multiples of 1/255 and clip to [0, 1], staying float32 (its gradient is zero)."""
    return jnp.clip(jnp.round(images * 255), 0, 255) / 255


# ITU-R BT.601 "studio swing", on RGB in [0, 1]: Y in [16, 235], Cb and Cr in [16, 240].
# The constants are scikit-image's (skimage.color.rgb2ycbcr) and MATLAB's.
_YCBCR = np.array(
    [
        [65.481, 128.553, 24.966],
        [-37.797, -74.203, 112.0],
        [112.0, -93.786, -18.214],
    ]
)
_YCBCR_OFFSET = np.array([16.0, 128.0, 128.0])


def _mix_channels(images: jax.Array, matrix: np.ndarray) -> jax.Array:
    """`images @ matrix`, as a sum that XLA fuses: a product with 3 columns is slow on a CPU."""
    rows = jnp.asarray(matrix, images.dtype)
    return images[..., 0:1] * rows[0] + images[..., 1:2] * rows[1] + images[..., 2:3] * rows[2]


def _check_channels(images: jax.Array) -> None:
    if images.shape[-1] != 3:
        raise InputError(f"images must have three channels, (..., height, width, 3), not {images.shape}")


def rgb_to_ycbcr(images: jax.Array) -> jax.Array:
    """RGB in [0, 1] to YCbCr with Y in [16, 235] (BT.601, as `skimage.color.rgb2ycbcr`)."""
    _check_channels(images)
    return _mix_channels(images, _YCBCR.T) + jnp.asarray(_YCBCR_OFFSET, images.dtype)


def ycbcr_to_rgb(images: jax.Array) -> jax.Array:
    """Inverse of `rgb_to_ycbcr` (as `skimage.color.ycbcr2rgb`); not clipped."""
    _check_channels(images)
    return _mix_channels(images - jnp.asarray(_YCBCR_OFFSET, images.dtype), np.linalg.inv(_YCBCR).T)


def luma(images: jax.Array) -> jax.Array:
    """The Y of YCbCr, `(..., height, width)`, in [16/255, 235/255]: where PSNR is measured."""
    return rgb_to_ycbcr(images)[..., 0] / 255


def _kernel(method: str, x: np.ndarray) -> np.ndarray:
    """The interpolation kernels, as Pillow and MATLAB define them (bicubic: Keys, a = -1/2)."""
    x = np.abs(x)
    if method == "bilinear":
        return np.maximum(1 - x, 0)
    if method == "bicubic":
        inner = (1.5 * x - 2.5) * x * x + 1
        outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
        return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
    if method == "lanczos":
        return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    raise InputError(f"unknown resize method {method!r}; choose from: nearest, bilinear, bicubic, lanczos")


_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


@lru_cache(maxsize=256)
def resize_matrix(
    size: int, new_size: int, method: str = "bicubic", border: str = "renormalize", antialias: bool = True
) -> np.ndarray:
    """The `(new_size, size)` matrix that resizes one axis.

    When shrinking with `antialias`, the kernel is widened by the factor, as Pillow and MATLAB do
    (OpenCV and PyTorch by default do not). Near the border Pillow drops the taps that fall outside
    and renormalises the others (`border="renormalize"`); MATLAB reflects them (`"symmetric"`).
    """
    if border not in ("renormalize", "symmetric"):
        raise InputError(f"unknown border {border!r}; choose from: renormalize, symmetric")
    scale = size / new_size
    centre = (np.arange(new_size) + 0.5) * scale
    matrix = np.zeros((new_size, size))
    if method == "nearest":
        matrix[np.arange(new_size), np.minimum(centre.astype(int), size - 1)] = 1
        return matrix.astype(np.float32)
    width = max(scale, 1.0) if antialias else 1.0
    support = _SUPPORT.get(method, 1.0) * width
    first = np.floor(centre - support - 0.5).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)) + 2)[None]
    weights = _kernel(method, (taps + 0.5 - centre[:, None]) / width)
    if border == "renormalize":
        weights = np.where((taps >= 0) & (taps < size), weights, 0.0)
        columns = np.clip(taps, 0, size - 1)
    else:
        period = np.mod(taps, 2 * size)
        columns = np.where(period < size, period, 2 * size - 1 - period)
    weights /= weights.sum(axis=1, keepdims=True)
    np.add.at(matrix, (np.arange(new_size)[:, None], columns), weights)
    return matrix.astype(np.float32)


def resize(
    images: jax.Array | np.ndarray,
    height: int,
    width: int,
    method: ResizeMethod = "bicubic",
    *,
    border: Border = "renormalize",
    antialias: bool = True,
) -> jax.Array:
    """Resize `(..., H, W, C)` to `(..., height, width, C)`; not clipped (bicubic overshoots).

    Two matrix products, so it is differentiable and fast on an accelerator. With the defaults it
    is Pillow's resize without its 8-bit rounding; with `border="symmetric"` it is MATLAB's
    `imresize`, with which the low-resolution images of the super-resolution literature are made.

    Raises
    ------
    InputError
        For an unknown method or border, and a height or width below 1.
    """
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int | np.integer) or side < 1:
            raise InputError(f"{name} must be an integer of at least 1, not {side!r:.80}")
    rows = resize_matrix(images.shape[-3], height, method, border, antialias)
    columns = resize_matrix(images.shape[-2], width, method, border, antialias)
    tall = jnp.einsum("yh,...hwc->...ywc", rows, images, precision="highest")
    return jnp.einsum("xw,...ywc->...yxc", columns, tall, precision="highest")
