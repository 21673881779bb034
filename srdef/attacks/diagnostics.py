"""What goes wrong on the way of an attack, for one image."""

import jax
import jax.numpy as jnp
from flax import struct


class Diagnostics(struct.PyTreeNode):
    """Signs that an attack could not do its work, which `perturb` reports for every image.

    An attack keeps one in the field `diagnostics` of its state.

    Attributes
    ----------
    nonfinite : bool array ()
        Whether a gradient was NaN or infinite, and then counted as zero; or a loss or logits were NaN.
    zero_gradient : bool array ()
        Whether a gradient was exactly zero although the image was not adversarial.
    """

    nonfinite: jax.Array
    zero_gradient: jax.Array

    @classmethod
    def create(cls) -> "Diagnostics":
        """Nothing has gone wrong yet."""
        return cls(jnp.bool_(False), jnp.bool_(False))

    def check(
        self, gradient: jax.Array, adversarial: jax.Array, *beside: jax.Array
    ) -> tuple[jax.Array, "Diagnostics"]:
        """Replace a gradient that is not finite by zero, and note it.

        Parameters
        ----------
        gradient : array (height, width, channels), or one for each of several classes
            Each class counts by itself.
        adversarial : bool array ()
            Whether the image is adversarial where the gradient was taken.
        *beside : arrays
            Loss and logits there, whose gradient may be zero where they are NaN.

        Returns
        -------
        gradient : array
        diagnostics : Diagnostics
        """
        pixels = tuple(range(gradient.ndim - 3, gradient.ndim))
        finite = jnp.isfinite(gradient).all(axis=pixels, keepdims=True)
        gradient = jnp.where(finite, gradient, 0)
        good = finite.all() & usable(*beside)
        zero = good & ~(gradient != 0).any() & ~adversarial
        return gradient, Diagnostics(self.nonfinite | ~good, self.zero_gradient | zero)


def usable(*values: jax.Array) -> jax.Array:
    """Whether losses or logits say something: none is NaN or ∞. (-∞ is the logit of a masked class.)"""
    return jnp.array([~(jnp.isnan(value) | jnp.isposinf(value)).any() for value in values]).all()
