"""The network of the manifold classifier of section 4.1: a frozen classifier and a detector on top.

Its highest blocks are trained further; the head is new: global average pooling, batch normalisation,
dropout, a dense layer of 1024 and one of 1. What lies below is frozen, its batch statistics too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef import batching
from srdef.errors import InputError
from srdef.models.efficientnet_lite import EfficientNetLite
from srdef.models.inception_v3 import InceptionV3
from srdef.programs import jit


class Top(nnx.Module):
    """The last blocks of a classifier, and the convolution after them where it has one."""

    def __init__(self, blocks: list[Any], head: Any = None, head_norm: Any = None) -> None:
        self.blocks = nnx.List(blocks)
        self.head = head
        self.head_norm = head_norm

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else nnx.relu6(self.head_norm(self.head(x)))


def cut(network: Any, blocks: int) -> tuple[str, Top]:
    """The name of the feature map below the last `blocks` blocks of a classifier, and what is above it.

    With 0 blocks it is the last feature map, and nothing.

    Raises
    ------
    InputError
        If the network is no EfficientNet-Lite or Inception-v3, or does not have that many blocks.
    """
    stack: list[Any]
    head: list[Any] = []
    if isinstance(network, EfficientNetLite):
        stack, prefix, head = list(network.blocks), "block", [network.head, network.head_norm]
    elif isinstance(network, InceptionV3):
        stack, prefix = list(network.mixed), "mixed"
    else:
        raise InputError(
            f"manifold: the top of a {type(network).__name__} is not known; choose an efficientnet_lite or "
            "inception_v3"
        )
    if not 0 <= blocks < len(stack):
        raise InputError(f"manifold: blocks must be 0 to {len(stack) - 1}, not {blocks}")
    if blocks == 0:
        return network.last_endpoint, Top([])
    return f"{prefix}{len(stack) - blocks - 1}", Top(stack[-blocks:], *head)


class Detector(nnx.Module):
    """What is trained: feature maps `(N, h, w, C)` to logits `(N,)`, positive for adversarial.

    Parameters
    ----------
    top : Top
        Pre-trained.
    channels : int
        What comes out of `top`.
    hidden : int
        Width of the dense layer.
    dropout : float
        Share that is dropped in training.
    """

    def __init__(self, top: Top, channels: int, hidden: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.top = top
        self.norm = nnx.BatchNorm(channels, use_running_average=True, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.dense = nnx.Linear(channels, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, 1, rngs=rngs)

    def hidden(self, maps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The last hidden layer `(N, hidden)`; `key` for the dropout in train mode."""
        pooled = jnp.mean(self.top(maps), axis=(1, 2))
        return nnx.relu(self.dense(self.dropout(self.norm(pooled), rngs=key)))

    def __call__(self, maps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.output(self.hidden(maps, key))[:, 0]


class ManifoldClassifier(nnx.Module):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N,)`: the frozen network, then the detector."""

    def __init__(self, network: Any, options: dict[str, Any], *, rngs: nnx.Rngs) -> None:
        self.network = network
        self.endpoint, top = cut(network, options["blocks"])
        channels = network.classifier.in_features
        self.detector = Detector(top, channels, options["hidden"], options["dropout"], rngs=rngs)

    def frozen(self, pixels: jax.Array) -> jax.Array:
        """The feature map below the trained blocks."""
        return self.network.endpoints(pixels)[self.endpoint]

    def hidden(self, pixels: jax.Array) -> jax.Array:
        """The last hidden layer, as in Figure 1 of the paper."""
        return self.detector.hidden(self.frozen(pixels))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        return self.detector(self.frozen(pixels))


@jit
def detect(model: ManifoldClassifier, pixels: jax.Array) -> jax.Array:
    """The logits `(N,)` of images, compiled."""
    return model(pixels)


@jit
def _hidden(model: ManifoldClassifier, pixels: jax.Array) -> jax.Array:
    return model.hidden(pixels)


def hidden_features(
    model: ManifoldClassifier, pixels: np.ndarray, *, batch_size: int | None = None
) -> np.ndarray:
    """The last hidden layer `(N, hidden)` of images `(N, H, W, 3)` in [0, 1]."""
    return batching.map_batches(_hidden, (model,), (pixels,), batch_size=batch_size)
