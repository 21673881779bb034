"""Bit-depth reduction (Xu, Evans and Qi 2018, "Feature squeezing"; Guo et al. 2018)."""

from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp

from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_number
from srdef.defenses.rounding import check_gradient, straight_through
from srdef.errors import InputError


@REGISTRY.register("bit_depth")
@flax.struct.dataclass
class BitDepth:
    """Move every value to one of 2^bits levels between 0 and 1.

    Deterministic, same size, idempotent. The gradient is zero, so the sensible surrogate is the
    identity, which `gradient="straight_through"` builds in.

    Parameters
    ----------
    bits : int
        1 to 8. Leaf.
    rounding : "nearest" or "down"
        "down" is what conversion to an integer type does.
    gradient : "zero" or "straight_through"
        The true gradient, or that of the identity.

    Raises
    ------
    InputError
        For bits that are not 1 to 8, or an unknown rounding or gradient.
    """

    bits: int | jax.Array = 3
    rounding: Literal["nearest", "down"] = flax.struct.field(pytree_node=False, default="nearest")
    gradient: Literal["zero", "straight_through"] = flax.struct.field(pytree_node=False, default="zero")

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_gradient("bit_depth", self.gradient, ("zero", "straight_through"))
        if self.rounding not in ("nearest", "down"):
            raise InputError(f"bit_depth: unknown rounding {self.rounding!r}; choose from: nearest, down")
        check_number("bit_depth", "bits", self.bits, 1, 8, whole=True)

    @property
    def differentiable(self) -> bool:
        """Whether the gradient is passed straight through."""
        return self.gradient != "zero"

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Round one image, (H, W, channels) in [0, 1]."""
        steps = jnp.asarray(2.0, image.dtype) ** self.bits - 1
        if self.rounding == "nearest":
            rounded = jnp.round(image * steps) / steps
        else:
            # A value that is a level may lie an ulp below it.
            rounded = jnp.floor(image * steps + 3e-5) / steps
        return rounded if self.gradient == "zero" else straight_through(image, rounded)
