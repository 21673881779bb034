"""JPEG compression in JAX (ITU-T T.81, as libjpeg implements it), and SHIELD's stochastic local version."""

from collections.abc import Sequence
from functools import cache, partial
from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_integer, check_number, check_rgb
from srdef.defenses.rounding import Gradient, check_gradient, round_half_away, soft_round, straight_through
from srdef.errors import InputError

Chroma = Literal["4:2:0", "4:4:4"]

# T.81, tables K.1 and K.2: luminance and chrominance at quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF's YCbCr: full range, Cb and Cr around 128.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
# libjpeg rounds halves of Cb and Cr down; the small number also hides rounding errors.
_OFFSETS = (0, 128 - 1e-4, 128 - 1e-4)


@cache
def _dct_matrix() -> np.ndarray:
    """The 8-point DCT-II times sqrt(8): libjpeg's scaling, in which two rows are whole numbers."""
    k, n = np.mgrid[:8, :8]
    matrix = np.sqrt(2) * np.cos(np.pi * (2 * n + 1) * k / 16)
    matrix[0] /= np.sqrt(2)
    # Exact ones keep exact the ties that rounding has to break as libjpeg does.
    return np.round(matrix, 12).astype(np.float32)


def quantisation_table(base: np.ndarray, quality: int | jax.Array) -> jax.Array:
    """libjpeg's scaling of a table for quality 50 to `quality` (1 to 100), (8, 8) float32."""
    quality = jnp.asarray(quality, jnp.float32)
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((base.astype(np.float32) * scale + 50) / 100), 1, 255)


def _round(x: jax.Array, gradient: Gradient) -> jax.Array:
    """Round to whole numbers, halves up."""
    rounded = jnp.floor(x + 0.5)
    return rounded if gradient == "zero" else straight_through(x, rounded)


def _compress(plane: jax.Array, table: jax.Array, gradient: Gradient) -> jax.Array:
    """DCT, quantise, and back, of a plane of levels whose sides are multiples of eight.

    libjpeg's "slow" integer transform is an exact one but for the places where it rounds: to
    quarters between rows and columns, and to eighths before quantisation.
    """
    height, width = plane.shape
    dct = _dct_matrix()
    product = partial(jnp.einsum, precision="highest")
    blocks = (plane - 128).reshape(height // 8, 8, width // 8, 8)
    half = _round(product("yixj,bj->yixb", blocks, 4 * dct), gradient)
    spectrum = _round(product("ai,yixb->yaxb", dct / 4, half), gradient)
    scaled = spectrum / (8 * table[:, None, :])
    if gradient == "soft":
        quantised = soft_round(scaled)
    else:
        quantised = round_half_away(scaled)
        if gradient == "straight_through":
            quantised = straight_through(scaled, quantised)
    spectrum = quantised * table[:, None, :]
    half = _round(product("ai,yaxb->yixb", 4 * dct, spectrum), gradient)
    blocks = product("yixb,bj->yixj", half, dct / 32)
    return blocks.reshape(height, width) + 128


def _neighbours(plane: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The previous and the next sample along an axis, the ends repeated."""
    size = plane.shape[axis]
    index = jnp.arange(size)
    before = jnp.take(plane, jnp.maximum(index - 1, 0), axis=axis)
    after = jnp.take(plane, jnp.minimum(index + 1, size - 1), axis=axis)
    return before, after


def _doubled(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    pairs = jnp.stack([even, odd], axis=axis + 1)
    return pairs.reshape(*pairs.shape[:axis], -1, *pairs.shape[axis + 2 :])


def _replicated(plane: jax.Array) -> jax.Array:
    """Each sample four times, as 2x2 pixels."""
    tall = _doubled(plane, plane, 0)
    return _doubled(tall, tall, 1)


@REGISTRY.register("jpeg")
@flax.struct.dataclass
class Jpeg:
    """Compress as JPEG and decompress.

    Deterministic, same size. Every step is libjpeg's: rounding to 8 bits, YCbCr in whole levels,
    chroma averaged over 2x2 pixels, 8x8 DCT, the standard tables scaled by the quality, and on the
    way back smooth chroma upsampling (plain for images up to four pixels wide). A gray image has no
    chroma. Used by Das et al. (2017, 2018) and Guo et al. (2018) with quality 75 to 80.

    The true gradient is zero almost everywhere. For an adaptive attack choose another `gradient`
    (which leaves the result as it is, or almost: "soft"), or the identity as the surrogate.

    Parameters
    ----------
    quality : int
        1 to 100. Leaf.
    chroma : "4:2:0" or "4:4:4"
    gradient : "zero", "straight_through" or "soft"
        The gradient of rounding: zero; one; or that of round(x) + (x - round(x))^3 for the
        coefficients (Shin and Song 2017), which replaces their rounding, and one for the pixels.

    Raises
    ------
    InputError
        For a quality that is no whole number or outside 1 to 100, or an unknown chroma or gradient.
    """

    quality: int | jax.Array = 80
    chroma: Chroma = flax.struct.field(pytree_node=False, default="4:2:0")
    gradient: Gradient = flax.struct.field(pytree_node=False, default="zero")

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_gradient("jpeg", self.gradient, ("zero", "straight_through", "soft"))
        if self.chroma not in ("4:2:0", "4:4:4"):
            raise InputError(f"jpeg: unknown chroma {self.chroma!r}; choose from: 4:2:0, 4:4:4")
        check_number("jpeg", "quality", self.quality, 1, 100, whole=True)

    @property
    def differentiable(self) -> bool:
        """Whether rounding has a gradient."""
        return self.gradient != "zero"

    def _floor(self, x: jax.Array) -> jax.Array:
        rounded = jnp.floor(x)
        return rounded if self.gradient == "zero" else straight_through(x, rounded)

    def _levels(self, x: jax.Array) -> jax.Array:
        """Round to whole levels and clip to 0 to 255."""
        rounded = jnp.clip(jnp.floor(x + 0.5), 0, 255)
        return rounded if self.gradient == "zero" else straight_through(x, rounded)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Compress one image, (H, W, 3) or (H, W, 1) in [0, 1]."""
        height, width, channels = image.shape
        if channels == 1:
            return self._component(self._levels(image[..., 0] * 255), _LUMINANCE)[..., None] / 255
        check_rgb("jpeg", image)
        red, green, blue = jnp.moveaxis(self._levels(image * 255), -1, 0)
        luma, *chroma = (
            self._levels(r * red + g * green + b * blue + offset)
            for (r, g, b), offset in zip(_YCBCR, _OFFSETS, strict=True)
        )
        luma = self._component(luma, _LUMINANCE)
        if self.chroma == "4:2:0":
            columns = (width + 1) // 2
            small = [self._component(self._halve(plane), _CHROMINANCE)[:, :columns] for plane in chroma]
            # libjpeg interpolates only what has more than two columns.
            enlarge = self._enlarge if columns > 2 else _replicated
            chroma = [enlarge(plane)[:height, :width] for plane in small]
        else:
            chroma = [self._component(plane, _CHROMINANCE) for plane in chroma]
        blue_difference, red_difference = (plane - 128 for plane in chroma)
        red = luma + 1.402 * red_difference
        green = luma - 0.344136286 * blue_difference - 0.714136286 * red_difference
        blue = luma + 1.772 * blue_difference
        return self._levels(jnp.stack([red, green, blue], axis=-1)) / 255

    def _component(self, plane: jax.Array, base: np.ndarray) -> jax.Array:
        """Compress and decompress a plane of any size."""
        height, width = plane.shape
        padded = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), mode="edge")
        result = _compress(padded, quantisation_table(base, self.quality), self.gradient)
        return self._levels(result)[:height, :width]

    def _halve(self, plane: jax.Array) -> jax.Array:
        """Average over 2x2 pixels; libjpeg rounds a half down and up in turns along a row.

        It also fills rows up to whole blocks (16 pixels here) before it averages, columns after.
        """
        height, width = plane.shape
        padded = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), mode="edge")
        total = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
        bias = 1 + jnp.arange(total.shape[1]) % 2
        return self._floor((total + bias) / 4)

    def _enlarge(self, plane: jax.Array) -> jax.Array:
        """libjpeg's "fancy" upsampling: weights 3/4 and 1/4 along each axis."""
        above, below = _neighbours(plane, 0)
        tall = _doubled(3 * plane + above, 3 * plane + below, 0)
        left, right = _neighbours(tall, 1)
        return _doubled(self._floor((3 * tall + left + 8) / 16), self._floor((3 * tall + right + 7) / 16), 1)


@REGISTRY.register("shield")
@flax.struct.dataclass
class Shield:
    """Stochastic local quantisation (Das et al. 2018, "SHIELD"): JPEG of a random quality in each block.

    Random, same size. The image is compressed once at each quality, and each block of 8x8 pixels
    is taken from one of the results, drawn uniformly. An evaluation averages the
    probabilities of several passes with `"passes": n` in its configuration. Differentiable, and
    with which surrogate, as `Jpeg`.

    Parameters
    ----------
    qualities : sequence of int
        1 to 100 each.
    chroma, gradient
        As in `Jpeg`.

    Raises
    ------
    InputError
        As `Jpeg`, and if the qualities are no sequence or there are none.
    """

    qualities: tuple[int, ...] = flax.struct.field(pytree_node=False, default=(20, 40, 60, 80))
    chroma: Chroma = flax.struct.field(pytree_node=False, default="4:2:0")
    gradient: Gradient = flax.struct.field(pytree_node=False, default="zero")

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.qualities, Sequence | np.ndarray) or isinstance(self.qualities, str):
            raise InputError(f"shield: qualities must be a sequence of numbers, not {self.qualities!r}")
        object.__setattr__(self, "qualities", tuple(self.qualities))
        if not self.qualities:
            raise InputError("shield: qualities must name at least one quality")
        for quality in self.qualities:
            check_integer("shield", "each of the qualities", quality, 1, 100)
            Jpeg(quality, self.chroma, self.gradient)

    @property
    def differentiable(self) -> bool:
        """Whether rounding has a gradient."""
        return self.gradient != "zero"

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Compress one image, (H, W, 3) or (H, W, 1) in [0, 1]."""
        height, width, _ = image.shape
        blocks = (-(-height // 8), -(-width // 8))
        choice = jax.random.randint(key, blocks, 0, len(self.qualities))
        choice = choice.repeat(8, axis=0).repeat(8, axis=1)[:height, :width, None]
        result = jnp.zeros_like(image)
        for number, quality in enumerate(self.qualities):
            compressed = Jpeg(quality, self.chroma, self.gradient)(image, key)
            result = jnp.where(choice == number, compressed, result)
        return result
