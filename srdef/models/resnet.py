"""ResNet-50 (He et al., 2016, arXiv:1512.03385) in the two layouts that have published weights.

| | Keras (`keras.applications.ResNet50`) | torchvision |
|---|---|---|
| stride of a stage | first 1x1 of its first block, as in the paper | 3x3 of its first block ("v1.5") |
| convolutions | with bias | without |
| epsilon of the normalisation | 1.001e-5 | 1e-5 |
| input | BGR on 0 to 255 minus the mean | RGB, ImageNet mean and standard deviation |
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.models.layers import PooledClassifier
from srdef.models.registry import REGISTRY
from srdef.validation import check_pixels
from srdef.weights import keras_layout
from srdef.weights.loading import Rule, batch_norm_rules, conv_kernel, linear_kernel

SMALLEST_SIDE = 32
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
EXPANSION = 4


def caffe_input(images: jax.Array) -> jax.Array:
    """RGB in [0, 1] to BGR on 0 to 255 minus the ImageNet mean, as the first ResNets were trained."""
    return 255 * images[..., ::-1] - jnp.asarray((103.939, 116.779, 123.68), images.dtype)


def torchvision_input(images: jax.Array) -> jax.Array:
    """RGB in [0, 1] minus the ImageNet mean, over the standard deviation."""
    mean = jnp.asarray((0.485, 0.456, 0.406), images.dtype)
    return (images - mean) / jnp.asarray((0.229, 0.224, 0.225), images.dtype)


@dataclass(frozen=True)
class Layout:
    """What differs between published ResNets; see the table above."""

    normalise: Callable[[jax.Array], jax.Array]
    bias: bool
    epsilon: float
    momentum: float
    stride_in_3x3: bool


KERAS = Layout(caffe_input, bias=True, epsilon=1.001e-5, momentum=0.99, stride_in_3x3=False)
TORCHVISION = Layout(torchvision_input, bias=False, epsilon=1e-5, momentum=0.9, stride_in_3x3=True)


class ConvNorm(nnx.Module):
    """Convolution with as much padding as its kernel needs on either side, and normalisation."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int, layout: Layout, *, rngs: nnx.Rngs
    ) -> None:
        self.conv = Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=layout.bias,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            outputs, use_running_average=True, momentum=layout.momentum, epsilon=layout.epsilon, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))

    def keras_levels(self, name: str) -> keras_layout.Levels:
        return keras_layout.weighted(f"{name}.conv") + keras_layout.batch_norm(f"{name}.norm")


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1, plus the input or, in the first block of a stage, its 1x1 projection."""

    def __init__(
        self, inputs: int, features: int, stride: int, project: bool, layout: Layout, *, rngs: nnx.Rngs
    ) -> None:
        outputs = EXPANSION * features
        strides = (1, stride) if layout.stride_in_3x3 else (stride, 1)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride, layout, rngs=rngs) if project else None
        self.conv1 = ConvNorm(inputs, features, 1, strides[0], layout, rngs=rngs)
        self.conv2 = ConvNorm(features, features, 3, strides[1], layout, rngs=rngs)
        self.conv3 = ConvNorm(features, outputs, 1, 1, layout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.conv3(nnx.relu(self.conv2(nnx.relu(self.conv1(x)))))
        return nnx.relu(inner + (x if self.shortcut is None else self.shortcut(x)))

    def keras_levels(self, name: str) -> keras_layout.Levels:
        inner = self.conv1.keras_levels(f"{name}.conv1") + keras_layout.WITHOUT_WEIGHTS
        inner += self.conv2.keras_levels(f"{name}.conv2") + keras_layout.WITHOUT_WEIGHTS
        inner += self.conv3.keras_levels(f"{name}.conv3")
        if self.shortcut is None:
            return inner
        return keras_layout.in_parallel(self.shortcut.keras_levels(f"{name}.shortcut"), inner)


def _torchvision_rules() -> tuple[Rule, ...]:
    """The names of `torchvision.models.resnet50`."""
    rules = [
        Rule(r"conv1\.weight", "stem.conv.kernel", conv_kernel),
        *batch_norm_rules("bn1", "stem.norm"),
        Rule(r"fc\.weight", "classifier.kernel", linear_kernel),
        Rule(r"fc\.bias", "classifier.bias"),
    ]
    for stage in range(4):
        block, ours = rf"layer{stage + 1}\.(\d+)", rf"stages.{stage}.\1"
        rules.append(Rule(rf"{block}\.conv([123])\.weight", rf"{ours}.conv\2.conv.kernel", conv_kernel))
        rules.append(Rule(rf"{block}\.downsample\.0\.weight", f"{ours}.shortcut.conv.kernel", conv_kernel))
        rules.extend(batch_norm_rules(rf"{block}\.bn([123])", rf"{ours}.conv\2.norm"))
        rules.extend(batch_norm_rules(rf"{block}\.downsample\.1", f"{ours}.shortcut.norm"))
    return tuple(rules)


class ResNet50(PooledClassifier):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N, num_classes)`; any height and width from 32 up.

    Parameters
    ----------
    layout : Layout
        `KERAS` or `TORCHVISION`.
    num_classes : int
        1000: the ImageNet classes in the order of their WordNet ids. 0: no last layer; the network
        then returns the 2048 pooled features.
    """

    image_size = 224
    last_endpoint = "res_5"
    published_rules = _torchvision_rules()

    def __init__(self, layout: Layout, num_classes: int = 1000, *, rngs: nnx.Rngs) -> None:
        self.layout = layout
        self.num_classes = num_classes
        self.stem = ConvNorm(3, 64, 7, 2, layout, rngs=rngs)
        stages = []
        inputs = 64
        for i, (features, repeats) in enumerate(STAGES):
            blocks = []
            for j in range(repeats):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Bottleneck(inputs, features, stride, j == 0, layout, rngs=rngs))
                inputs = EXPANSION * features
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.classifier = nnx.Linear(inputs, num_classes, rngs=rngs) if num_classes else None

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps by name: `stem`, and `res_2` to `res_5`, the ends of the four stages.

        The stages are numbered as in the paper (conv2_x to conv5_x in its Table 1).
        """
        check_pixels(images, smallest=SMALLEST_SIDE)
        x = nnx.relu(self.stem(self.layout.normalise(images)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = {"stem": x}
        for i, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            maps[f"res_{i + 2}"] = x
        return maps

    def keras_names(self) -> list[str]:
        """The names of this network's tensors in the order of a Keras weights file."""
        levels = self.stem.keras_levels("stem")
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                levels += block.keras_levels(f"stages.{i}.{j}")
        return keras_layout.names([*levels, *keras_layout.weighted("classifier")])


@REGISTRY.register("resnet50")
def resnet50(*, rngs: nnx.Rngs, num_classes: int = 1000) -> ResNet50:
    """Keras's layout; 25.6 million parameters, 3.9 GMAC at 224 px."""
    return ResNet50(KERAS, num_classes, rngs=rngs)


@REGISTRY.register("resnet50_torchvision")
def resnet50_torchvision(*, rngs: nnx.Rngs, num_classes: int = 1000) -> ResNet50:
    """torchvision's layout; 25.6 million parameters, 4.1 GMAC at 224 px."""
    return ResNet50(TORCHVISION, num_classes, rngs=rngs)
