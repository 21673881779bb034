"""What the rest of srdef expects of a network; every one is also an `nnx.Module`."""

from typing import Protocol

import jax


class Classifier(Protocol):
    """Images `(N, H, W, 3)` in [0, 1], of any size, to logits `(N, num_classes)`."""

    num_classes: int
    image_size: int

    def __call__(self, images: jax.Array) -> jax.Array: ...

    def features(self, images: jax.Array) -> jax.Array:
        """The last feature map `(N, h, w, C)`, before global pooling."""
        ...


class SuperResolutionNetwork(Protocol):
    """Images `(N, H, W, 3)` in [0, 1] to `(N, scale·H, scale·W, 3)`, not clipped."""

    scale: int

    def __call__(self, images: jax.Array) -> jax.Array: ...
