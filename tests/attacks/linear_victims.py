"""Small victims with known answers, shared by the attack tests."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SHAPE = (6, 5, 3)


class Linear(nnx.Module):
    """Logits that are linear in the image: boundaries and gradients have closed forms.

    Images of another size are brought to `SHAPE` first, which is linear too.
    """

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))  # (pixels, classes)
        self.bias = nnx.Param(jnp.asarray(bias, jnp.float32))
        self.num_classes = weights.shape[1]

    def __call__(self, images: jax.Array) -> jax.Array:
        images = jax.image.resize(images, (len(images), *SHAPE), "linear", antialias=False)
        flat = images.reshape(len(images), -1)
        return jnp.matmul(flat, self.weights[...], precision="highest") + self.bias[None]


class Smooth(nnx.Module):
    """A small smooth network, so that gradients change along the way: tanh(x W1) W2."""

    def __init__(self, rng: np.random.Generator, classes: int = 5) -> None:
        pixels = int(np.prod(SHAPE))
        self.first = nnx.Param(jnp.asarray(rng.normal(size=(pixels, 16)) / 5, jnp.float32))
        self.second = nnx.Param(jnp.asarray(rng.normal(size=(16, classes)), jnp.float32))
        self.num_classes = classes

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = jnp.tanh(images.reshape(len(images), -1) @ self.first[...])
        return hidden @ self.second[...]


class Constant(nnx.Module):
    """Logits that do not depend on the image: every gradient is zero."""

    def __init__(self, logits: list[float]) -> None:
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))
        self.num_classes = len(logits)

    def __call__(self, images: jax.Array) -> jax.Array:
        return jnp.zeros((len(images), 1)) * images.sum() + self.logits[None]


def linear(classes: int, seed: int = 0) -> Linear:
    """A linear classifier whose predictions on `images` are spread over the classes."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(int(np.prod(SHAPE)), classes))
    # Zero at mid-grey, so that no class is favoured.
    return Linear(weights, -0.5 * weights.sum(axis=0))


def images(count: int, seed: int = 0) -> np.ndarray:
    """Random images in [0.25, 0.75]: far enough from 0 and 1 for small attacks not to be clipped."""
    return np.random.default_rng(seed).uniform(0.25, 0.75, (count, *SHAPE)).astype(np.float32)


def predictions(classifier: nnx.Module, images: np.ndarray) -> np.ndarray:
    return np.asarray(classifier(jnp.asarray(images)).argmax(axis=-1))
