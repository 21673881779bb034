"""Inception-ResNet-v2 (Szegedy et al., 2017, arXiv:1602.07261).

Layout of `keras.applications.inception_resnet_v2`, whose published ImageNet weights fit.
"""

import jax
from flax import nnx

from srdef.cpu import convolution
from srdef.models.inception_layers import Conv, ConvNorm, Mixed, Path, Stem
from srdef.models.layers import PooledClassifier
from srdef.models.registry import REGISTRY
from srdef.weights import keras_layout

MIXED_5B = (
    Path((Conv(96),)),
    Path((Conv(48), Conv(64, (5, 5)))),
    Path((Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3)))),
    Path((Conv(64),), pool="average"),
)
MIXED_6A = (
    Path((Conv(384, (3, 3), 2, "VALID"),)),
    Path((Conv(256), Conv(256, (3, 3)), Conv(384, (3, 3), 2, "VALID"))),
    Path(pool="max"),
)
MIXED_7A = (
    Path((Conv(256), Conv(384, (3, 3), 2, "VALID"))),
    Path((Conv(256), Conv(288, (3, 3), 2, "VALID"))),
    Path((Conv(256), Conv(288, (3, 3)), Conv(320, (3, 3), 2, "VALID"))),
    Path(pool="max"),
)
BLOCK35 = (
    Path((Conv(32),)),
    Path((Conv(32), Conv(32, (3, 3)))),
    Path((Conv(32), Conv(48, (3, 3)), Conv(64, (3, 3)))),
)
BLOCK17 = (
    Path((Conv(192),)),
    Path((Conv(128), Conv(160, (1, 7)), Conv(192, (7, 1)))),
)
BLOCK8 = (
    Path((Conv(192),)),
    Path((Conv(192), Conv(224, (1, 3)), Conv(256, (3, 1)))),
)


class Residual(nnx.Module):
    """`x + scale · conv1x1(branches)`, then ReLU where `activate` (Figures 16, 17 and 19)."""

    def __init__(
        self, features: int, paths: tuple[Path, ...], scale: float, activate: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        self.mixed = Mixed(features, paths, rngs=rngs)
        self.project = convolution.Conv(self.mixed.outputs, features, (1, 1), rngs=rngs)
        self.scale = scale
        self.activate = activate

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.scale * self.project(self.mixed(x))
        return nnx.relu(x) if self.activate else x

    def keras_levels(self, name: str) -> keras_layout.Levels:
        # What follows the projection has no weights and no branch beside it.
        return self.mixed.keras_levels(f"{name}.mixed") + keras_layout.weighted(f"{name}.project")


class InceptionResNetV2(PooledClassifier):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N, num_classes)`; any height and width from 75 up.

    Parameters
    ----------
    num_classes : int
        1000: the ImageNet classes in the order of their WordNet ids. 0: no last layer; the network
        then returns the 1536 pooled features.
    """

    image_size = 299
    last_endpoint = "conv_7b"

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs) -> None:
        self.num_classes = num_classes
        self.stem = Stem(rngs=rngs)
        self.mixed_5b = Mixed(self.stem.outputs, MIXED_5B, rngs=rngs)
        self.block35 = nnx.List(Residual(320, BLOCK35, 0.17, rngs=rngs) for _ in range(10))
        self.mixed_6a = Mixed(320, MIXED_6A, rngs=rngs)
        self.block17 = nnx.List(Residual(1088, BLOCK17, 0.10, rngs=rngs) for _ in range(20))
        self.mixed_7a = Mixed(1088, MIXED_7A, rngs=rngs)
        # The last block neither scales its residual nor ends in a ReLU.
        last = Residual(2080, BLOCK8, 1.0, activate=False, rngs=rngs)
        self.block8 = nnx.List([*(Residual(2080, BLOCK8, 0.20, rngs=rngs) for _ in range(9)), last])
        self.conv_7b = ConvNorm(2080, Conv(1536), rngs=rngs)
        self.classifier = nnx.Linear(1536, num_classes, rngs=rngs) if num_classes else None

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps by name: the last of each resolution's, and those between (Keras's names)."""
        maps = {"stem": self.stem(images)}
        x = maps["mixed_5b"] = self.mixed_5b(maps["stem"])
        for block in self.block35:
            x = block(x)
        maps["block35_10"] = x
        x = maps["mixed_6a"] = self.mixed_6a(x)
        for block in self.block17:
            x = block(x)
        maps["block17_20"] = x
        x = maps["mixed_7a"] = self.mixed_7a(x)
        for block in self.block8:
            x = block(x)
        maps["block8_10"] = x
        maps["conv_7b"] = self.conv_7b(x)
        return maps

    def keras_names(self) -> list[str]:
        """The names of this network's tensors in the order of a Keras weights file."""
        levels = self.stem.keras_levels("stem") + self.mixed_5b.keras_levels("mixed_5b")
        for i, block in enumerate(self.block35):
            levels += block.keras_levels(f"block35.{i}")
        levels += self.mixed_6a.keras_levels("mixed_6a")
        for i, block in enumerate(self.block17):
            levels += block.keras_levels(f"block17.{i}")
        levels += self.mixed_7a.keras_levels("mixed_7a")
        for i, block in enumerate(self.block8):
            levels += block.keras_levels(f"block8.{i}")
        levels += self.conv_7b.keras_levels("conv_7b") + keras_layout.weighted("classifier")
        return keras_layout.names(levels)


@REGISTRY.register("inception_resnet_v2")
def inception_resnet_v2(*, rngs: nnx.Rngs, num_classes: int = 1000) -> InceptionResNetV2:
    """55.8 million parameters, 13.2 GMAC at 299 px."""
    return InceptionResNetV2(num_classes, rngs=rngs)
