"""Super-resolution as a defense: the paper's map back onto the manifold of natural images."""

from pathlib import Path
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from srdef import images
from srdef.defenses.base import REGISTRY
from srdef.defenses.rounding import Gradient, check_gradient, straight_through
from srdef.errors import InputError
from srdef.programs import traced_once


@flax.struct.dataclass
class SuperResolution:
    """Enlarge the image with a super-resolution network.

    Deterministic, differentiable (with `round_to_8_bits` only if `gradient` is "straight_through"),
    `scale` times the size. A sensible surrogate is bicubic interpolation by the same factor, or the
    identity.

    Parameters
    ----------
    network : nnx.Module
        Maps (1, H, W, 3) in [0, 1] to (1, scale H, scale W, 3).
    clip : bool
        Clip the result to [0, 1] (networks overshoot by a little).
    round_to_8_bits : bool
        Round the result to multiples of 1/255, as the paper's released code does when it stores
        the enlarged image.
    gradient : "zero" or "straight_through"
        The gradient of that rounding: its own, which is zero, or one.

    Raises
    ------
    InputError
        For an unknown gradient.
    """

    network: nnx.Module
    clip: bool = flax.struct.field(pytree_node=False, default=True)
    round_to_8_bits: bool = flax.struct.field(pytree_node=False, default=False)
    gradient: Gradient = flax.struct.field(pytree_node=False, default="zero")

    random: ClassVar[bool] = False
    # On a CPU XLA convolves a batch of large images more slowly than one image after the other.
    one_by_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_gradient("super_resolution", self.gradient, ("zero", "straight_through"))

    @property
    def differentiable(self) -> bool:
        """Whether the result is not rounded, or the rounding has a gradient."""
        return not self.round_to_8_bits or self.gradient != "zero"

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Enlarge one image, (H, W, 3) in [0, 1], to (scale H, scale W, 3)."""
        enlarged = traced_once(self.network, image[None])[0]
        if self.round_to_8_bits:
            rounded = images.round_to_8_bits(enlarged)
            return rounded if self.gradient == "zero" else straight_through(enlarged, rounded)
        return jnp.clip(enlarged, 0, 1) if self.clip else enlarged


@REGISTRY.register("super_resolution")
def create_super_resolution(
    network: nnx.Module | str,
    pretrained: bool = True,
    clip: bool = True,
    round_to_8_bits: bool = False,
    gradient: Gradient = "zero",
    weights: str | Path | None = None,
) -> SuperResolution:
    """Build `SuperResolution` from a network, or from the name of a model.

    Parameters
    ----------
    network : nnx.Module or str
        A name is looked up with `srdef.models.create(network, pretrained=pretrained)`.
    pretrained : bool
        Load the trained weights; used with a name only.
    clip, round_to_8_bits, gradient
        As in `SuperResolution`.
    weights : str or path, optional
        A file of weights, or the name of published ones, instead of `pretrained`; used with a name only.

    Raises
    ------
    InputError
        As `srdef.models.create`, and for a network that has no `scale`, such as a classifier.
    """
    module: Any = network
    if isinstance(network, str):
        from srdef import models  # here, so that defenses without a network load no model code

        module = models.create(network, pretrained=pretrained and weights is None, weights=weights)
    if not hasattr(module, "scale"):
        name = repr(network) if isinstance(network, str) else type(network).__name__
        raise InputError(f"super_resolution: {name} is not a super-resolution network: it has no scale")
    return SuperResolution(module, clip, round_to_8_bits, gradient)
