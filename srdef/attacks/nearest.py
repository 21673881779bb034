"""What minimal-norm attacks share: the nearest adversarial image so far, the lead, and annealed steps."""

import math

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.losses import max_other_logit
from srdef.validation import Scalar


class Nearest(struct.PyTreeNode):
    """The adversarial image that is nearest to the given one, of all that an attack has seen.

    Attributes
    ----------
    image : array (height, width, 3)
        The given image itself while nothing is found.
    distance : array ()
        Infinite while nothing is found.
    """

    image: jax.Array
    distance: jax.Array

    @classmethod
    def create(cls, image: jax.Array) -> "Nearest":
        """Nothing is found yet."""
        return cls(image, jnp.full((), jnp.inf, image.dtype))

    @property
    def found(self) -> jax.Array:
        """Whether there is an adversarial image."""
        return jnp.isfinite(self.distance)

    @property
    def at_start(self) -> jax.Array:
        """Whether the given image is misclassified as it is: nothing is nearer."""
        return self.distance == 0

    def update(self, x: jax.Array, distance: jax.Array, adversarial: jax.Array) -> "Nearest":
        """Keep `x` if it is adversarial and nearer."""
        better = adversarial & (distance < self.distance)
        return Nearest(jnp.where(better, x, self.image), jnp.where(better, distance, self.distance))


def lead_to_undo(logits: jax.Array, label: jax.Array, targeted: bool) -> jax.Array:
    """By how much the logits lead on the side of the boundary that an attack wants to leave.

    That of the label over the best other class; for a targeted attack the other way round.
    """
    lead = logits[label] - max_other_logit(logits, label)
    return -lead if targeted else lead


def annealed(first: Scalar, last: Scalar, iteration: jax.Array, steps: int) -> jax.Array:
    """A number that falls along half a cosine from `first`, and would be `last` after all steps."""
    share = (1 + jnp.cos(math.pi * iteration / steps)) / 2
    return share * first + (1 - share) * last


def furthest(image: jax.Array) -> jax.Array:
    """The largest perturbation that [0, 1] has room for, value by value."""
    return jnp.maximum(image, 1 - image)
