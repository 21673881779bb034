"""A classifier, alone or behind a defense."""

from typing import Any, Literal, get_args

import jax
from flax import struct

from srdef.defenses import Defense
from srdef.defenses.base import check_not_a_name
from srdef.errors import InputError
from srdef.images import resize
from srdef.models.frameworks import as_classifier
from srdef.programs import traced_once
from srdef.victims.base import Victim, as_logits

Gradient = Literal["exact", "identity"]


@struct.dataclass
class Undefended(Victim):
    """A classifier with nothing before it.

    Parameters
    ----------
    classifier : Classifier
        Maps images `(N, H, W, C)` in [0, 1] to logits `(N, num_classes)`; a model of another framework is
        wrapped (`srdef.models.wrap`).
    """

    classifier: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "classifier", as_classifier(self.classifier))

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return as_logits(traced_once(self.classifier, image[None])[0])


@struct.dataclass
class Defended(Victim):
    """A classifier with a defense before it, and what the adversary differentiates.

    The logits are those of the defended image, whatever `gradient` says. For a defense whose
    gradient is zero or useless the adversary replaces it on the way back by something similar that
    has one (backward pass differentiable approximation, Athalye, Carlini and Wagner 2018,
    arXiv:1802.00420, section 4.1); the classifier itself is always differentiated.

    - "exact": through the defense as it is written. Some defenses offer a gradient for their
      rounding (`gradient="straight_through"`); without it this gradient is zero.
    - "identity": the defense counts as the identity. Where it changes the size (super-resolution),
      as bicubic interpolation to that size, so that the gradient is brought back by the transpose
      of that linear map.
    - a defense: the gradient of this surrogate, at the image that is attacked and with the key that
      the defense gets.

    Parameters
    ----------
    classifier : Classifier
        As for `Undefended`.
    defense : Defense
        Stands before it.
    gradient : "exact", "identity" or Defense

    Raises
    ------
    InputError
        For an unknown gradient, or the name of a defense; when called, if a surrogate's result has another
        size than the defense's; when differentiated, if what is differentiated computes by a callback.
    """

    classifier: Any
    defense: Any
    gradient: Gradient | Defense = struct.field(pytree_node=False, default="exact")
    surrogate: Any = None  # where a defense given as `gradient` is kept, as a pytree

    def __post_init__(self) -> None:
        object.__setattr__(self, "classifier", as_classifier(self.classifier))
        check_not_a_name(self.defense)
        if self.gradient in (*get_args(Gradient), "surrogate"):
            return
        if isinstance(self.gradient, str) or not callable(self.gradient):
            raise InputError(
                f"unknown gradient {self.gradient!r}; choose from: exact, identity, or give a defense"
            )
        object.__setattr__(self, "surrogate", self.gradient)
        object.__setattr__(self, "gradient", "surrogate")

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if self.gradient == "exact":
            defended = _differentiated(self.defense, image, key, "'identity' or a defense as its surrogate")
        else:
            defended = jax.lax.stop_gradient(self.defense(jax.lax.stop_gradient(image), key))
            if self.gradient == "surrogate":
                similar = _differentiated(self.surrogate, image, key, "'identity' or another surrogate")
            else:
                similar = image
                if image.shape != defended.shape:
                    similar = resize(image, *defended.shape[:2])
            if similar.shape != defended.shape:
                raise InputError(
                    f"the surrogate makes images of {similar.shape}, the defense of {defended.shape}"
                )
            # The difference is zero, so the value is the defense's to the last bit.
            defended = defended + (similar - jax.lax.stop_gradient(similar))
        return as_logits(traced_once(self.classifier, defended[None])[0])


def _differentiated(defense: Defense, image: jax.Array, key: jax.Array, instead: str) -> jax.Array:
    """The defended image; InputError where a gradient is asked of a defense that asks the host."""
    try:
        return defense(image, key)
    except ValueError as error:  # JAX has no class of its own for it
        if "callbacks do not support JVP" not in str(error):
            raise
        raise InputError(
            f"{type(defense).__name__} computes by a callback, which has no gradient: give "
            f"victims.Defended(..., gradient=) {instead}, or attack victims.EstimatedGradient(victim)"
        ) from error
