"""Victims are pytrees that give the logits of one image."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef.victims import Undefended


class Mean(nnx.Module):
    """Two logits: the mean of the image, and a parameter."""

    num_classes = 2

    def __init__(self, threshold):
        self.threshold = nnx.Param(jnp.float32(threshold))

    def __call__(self, images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([mean, jnp.broadcast_to(self.threshold[...], mean.shape)], axis=-1)


def test_undefended_is_the_classifier():
    victim = Undefended(Mean(0.25))
    image = jnp.full((4, 5, 3), 0.5)
    np.testing.assert_allclose(victim(image, jax.random.key(0)), [0.5, 0.25])
    assert victim.num_classes == 2
    gradient = jax.grad(lambda x: victim(x, jax.random.key(0))[0])(image)
    np.testing.assert_allclose(gradient, 1 / 60, rtol=1e-6)


def test_weights_are_arguments_not_constants():
    """One compiled program serves other weights of the same shape."""

    @jax.jit
    def logits(victim, image):
        return victim(image, jax.random.key(0))

    image = jnp.full((4, 5, 3), 0.5)
    assert logits(Undefended(Mean(0.25)), image)[1] == 0.25
    assert logits(Undefended(Mean(0.75)), image)[1] == 0.75
    assert logits._cache_size() == 1
