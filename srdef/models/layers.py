"""Layers that Flax lacks, or that are too slow in it; what the classifiers have in common."""

import jax
import jax.numpy as jnp
from flax import nnx


class PooledClassifier(nnx.Module):
    """A network whose logits are a dense layer on the global average of its last feature map.

    Attributes
    ----------
    classifier : nnx.Linear or None
        The last layer; with `features`, what class activation maps need. None: the network returns
        the averages themselves.
    last_endpoint : str
        What `endpoints` calls the last feature map.
    """

    classifier: nnx.Linear | None
    last_endpoint: str

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps `(N, h, w, C)` by name."""
        raise NotImplementedError

    def features(self, images: jax.Array) -> jax.Array:
        """The last feature map `(N, h, w, C)`, before global pooling."""
        return self.endpoints(images)[self.last_endpoint]

    def __call__(self, images: jax.Array) -> jax.Array:
        pooled = jnp.mean(self.features(images), axis=(1, 2))
        return pooled if self.classifier is None else self.classifier(pooled)
