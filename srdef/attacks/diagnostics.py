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
        Whether a gradient was NaN or infinite; it then counted as zero.
    zero_gradient : bool array ()
        Whether a gradient was exactly zero although the image was not adversarial.
    """

    nonfinite: jax.Array
    zero_gradient: jax.Array

    @classmethod
    def create(cls) -> "Diagnostics":
        """Nothing has gone wrong yet."""
        return cls(jnp.bool_(False), jnp.bool_(False))

    def check(self, gradient: jax.Array, adversarial: jax.Array) -> tuple[jax.Array, "Diagnostics"]:
        """Replace a gradient that is not finite by zero, and note it.

        Parameters
        ----------
        gradient : array (height, width, channels), or one for each of several classes
            Each class counts by itself.
        adversarial : bool array ()
            Whether the image is adversarial where the gradient was taken.

        Returns
        -------
        gradient : array
        diagnostics : Diagnostics
        """
        pixels = tuple(range(gradient.ndim - 3, gradient.ndim))
        finite = jnp.isfinite(gradient).all(axis=pixels, keepdims=True)
        gradient = jnp.where(finite, gradient, 0)
        zero = finite.all() & ~(gradient != 0).any() & ~adversarial
        return gradient, Diagnostics(self.nonfinite | ~finite.all(), self.zero_gradient | zero)
