"""Resizing as a defense: the nine columns of the paper's Table 4."""

from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp

from srdef import images
from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_integer
from srdef.errors import InputError

Order = Literal["up", "up_down", "down_up"]

_METHODS = ("nearest", "bilinear", "bicubic", "lanczos")
_ORDERS = ("up", "up_down", "down_up")


@REGISTRY.register("interpolation")
@flax.struct.dataclass
class Interpolation:
    """Enlarge by interpolation, or enlarge and shrink back, or shrink and enlarge back.

    Deterministic, differentiable (no surrogate needed). `order="up"` gives `factor` times the
    size, the others the same size. Nearest up and down again is the identity.

    Resizing is Pillow's without its rounding to 8 bits: pixel centres at halves, bicubic with
    a = -1/2, and a kernel widened by the factor when it shrinks.

    Parameters
    ----------
    method : "nearest", "bilinear", "bicubic" or "lanczos"
    order : "up", "up_down" or "down_up"
    factor : int
        At least 2.
    antialias : bool
        Widen the kernel when shrinking. Without it, shrinking is OpenCV's and PyTorch's default
        (whose bicubic kernel has a = -3/4, though).

    Raises
    ------
    InputError
        For an unknown method or order, or a factor that is no whole number or below 2.
    """

    method: images.ResizeMethod = flax.struct.field(pytree_node=False, default="bicubic")
    order: Order = flax.struct.field(pytree_node=False, default="up")
    factor: int = flax.struct.field(pytree_node=False, default=2)
    antialias: bool = flax.struct.field(pytree_node=False, default=True)

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise InputError(
                f"interpolation: unknown method {self.method!r}; choose from: {', '.join(_METHODS)}"
            )
        if self.order not in _ORDERS:
            raise InputError(
                f"interpolation: unknown order {self.order!r}; choose from: {', '.join(_ORDERS)}"
            )
        check_integer("interpolation", "factor", self.factor, 2)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Resize one image, (H, W, channels) in [0, 1]."""
        height, width, _ = image.shape
        large = (height * self.factor, width * self.factor)
        small = (max(height // self.factor, 1), max(width // self.factor, 1))
        sizes = {"up": [large], "up_down": [large, (height, width)], "down_up": [small, (height, width)]}
        for size in sizes[self.order]:
            image = images.resize(image, *size, self.method, antialias=self.antialias)
            # As between two resizes of stored images; bicubic overshoots.
            image = jnp.clip(image, 0, 1)
        return image
