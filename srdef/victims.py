"""What an attack sees: a classifier together with what stands before it.

A victim is a frozen pytree: `victim(image, key)` maps one image `(height, width, 3)` in [0, 1] to
logits `(classes,)`. The key feeds whatever is random in it; a deterministic victim ignores it.
Attacks differentiate through a victim, so what a wrapper does to gradients is what the adversary
knows.
"""

from typing import Any, Protocol

import jax
from flax import nnx, struct


class Victim(Protocol):
    """A function of one image that an attack can differentiate."""

    @property
    def num_classes(self) -> int:
        """The number of classes, the length of the logits."""
        ...

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """The logits `(num_classes,)` of one image `(height, width, 3)` in [0, 1]."""
        ...


@struct.dataclass
class Undefended:
    """A classifier with nothing before it.

    Parameters
    ----------
    classifier : nnx.Module
        Maps images `(N, H, W, 3)` in [0, 1] to logits `(N, num_classes)`.
    """

    classifier: nnx.Module | Any

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return self.classifier(image[None])[0]
