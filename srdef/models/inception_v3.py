"""Inception-v3 (Szegedy et al., 2016, arXiv:1512.00567).

Layout of `keras.applications.inception_v3`, whose published ImageNet weights fit. The auxiliary
classifier of the paper, which only training uses, is left out there and here.
"""

import jax
from flax import nnx

from srdef.models.inception_layers import Conv, Mixed, Path, Stem
from srdef.models.layers import PooledClassifier
from srdef.models.registry import REGISTRY
from srdef.weights import keras_layout


def _inception_a(pool_features: int) -> tuple[Path, ...]:
    """Figure 5 of the paper, its 5x5 kept in one branch."""
    return (
        Path((Conv(64),)),
        Path((Conv(48), Conv(64, (5, 5)))),
        Path((Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3)))),
        Path((Conv(pool_features),), pool="average"),
    )


def _inception_b(features: int) -> tuple[Path, ...]:
    """Figure 6: 7x7 kernels factorised into rows and columns."""
    row, column = (1, 7), (7, 1)
    double = (Conv(features), Conv(features, column), Conv(features, row), Conv(features, column))
    return (
        Path((Conv(192),)),
        Path((Conv(features), Conv(features, row), Conv(192, column))),
        Path((*double, Conv(192, row))),
        Path((Conv(192),), pool="average"),
    )


def _inception_c() -> tuple[Path, ...]:
    """Figure 7: branches that fork at their ends."""
    return (
        Path((Conv(320),)),
        Path((Conv(384),), fork=384),
        Path((Conv(448), Conv(384, (3, 3))), fork=384),
        Path((Conv(192),), pool="average"),
    )


MIXED = (
    _inception_a(32),
    _inception_a(64),
    _inception_a(64),
    (
        Path((Conv(384, (3, 3), 2, "VALID"),)),
        Path((Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3), 2, "VALID"))),
        Path(pool="max"),
    ),
    _inception_b(128),
    _inception_b(160),
    _inception_b(160),
    _inception_b(192),
    (
        Path((Conv(192), Conv(320, (3, 3), 2, "VALID"))),
        Path((Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, (3, 3), 2, "VALID"))),
        Path(pool="max"),
    ),
    _inception_c(),
    _inception_c(),
)


class InceptionV3(PooledClassifier):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N, num_classes)`; any height and width from 75 up.

    Parameters
    ----------
    num_classes : int
        1000: the ImageNet classes in the order of their WordNet ids. 0: no last layer; the network
        then returns the 2048 pooled features.
    """

    image_size = 299
    last_endpoint = "mixed10"

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs) -> None:
        self.num_classes = num_classes
        self.stem = Stem(rngs=rngs)
        blocks = []
        features = self.stem.outputs
        for paths in MIXED:
            blocks.append(Mixed(features, paths, rngs=rngs))
            features = blocks[-1].outputs
        self.mixed = nnx.List(blocks)
        self.classifier = nnx.Linear(features, num_classes, rngs=rngs) if num_classes else None

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps by name: `stem` and `mixed0` to `mixed10` (the names are Keras's)."""
        x = self.stem(images)
        maps = {"stem": x}
        for i, block in enumerate(self.mixed):
            x = maps[f"mixed{i}"] = block(x)
        return maps

    def keras_names(self) -> list[str]:
        """The names of this network's tensors in the order of a Keras weights file."""
        levels = self.stem.keras_levels("stem")
        for i, block in enumerate(self.mixed):
            levels += block.keras_levels(f"mixed.{i}")
        return keras_layout.names([*levels, *keras_layout.weighted("classifier")])


@REGISTRY.register("inception_v3")
def inception_v3(*, rngs: nnx.Rngs, num_classes: int = 1000) -> InceptionV3:
    """23.8 million parameters, 5.7 GMAC at 299 px."""
    return InceptionV3(num_classes, rngs=rngs)
