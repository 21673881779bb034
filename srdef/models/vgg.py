"""The convolutions of VGG-19 (Simonyan and Zisserman, 2015, arXiv:1409.1556, configuration E).

Their feature maps are the perceptual loss of SRGAN. The three dense layers, which need images of 224
pixels and hold 124 of the 144 million parameters, are left out.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.errors import InputError
from srdef.models.layers import PooledClassifier
from srdef.models.registry import REGISTRY
from srdef.models.resnet import caffe_input, torchvision_input
from srdef.validation import check_pixels
from srdef.weights import keras_layout
from srdef.weights.loading import Rule, conv_kernel

SMALLEST_SIDE = 16
# Channels and number of the convolutions before each maximum over 2x2.
STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


def _torchvision_rules() -> tuple[Rule, ...]:
    """torchvision numbers the layers: a convolution and its ReLU are two, a maximum is one."""
    rules = []
    layer = 0
    for stage, (_, repeats) in enumerate(STAGES):
        for i in range(repeats):
            ours = f"stages.{stage}.{i}"
            rules.append(Rule(rf"features\.{layer}\.weight", f"{ours}.kernel", conv_kernel))
            rules.append(Rule(rf"features\.{layer}\.bias", f"{ours}.bias"))
            layer += 2
        layer += 1
    return (*rules, Rule(r"classifier\..*", None))


class VGG19(PooledClassifier):
    """Images `(N, H, W, 3)` in [0, 1] to pooled features `(N, 512)`; any height and width from 16 up.

    Parameters
    ----------
    normalise : function
        Of the images: `caffe_input` for Keras's weights, `torchvision_input` for torchvision's.
    """

    image_size = 224
    num_classes = 0
    classifier = None
    last_endpoint = "conv5_4"  # φ5,4 of the SRGAN paper
    published_rules = _torchvision_rules()

    def __init__(self, normalise: Callable[[jax.Array], jax.Array], *, rngs: nnx.Rngs) -> None:
        self.normalise = normalise
        he = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
        stages = []
        inputs = 3
        for features, repeats in STAGES:
            stage = []
            for _ in range(repeats):
                stage.append(Conv(inputs, features, (3, 3), padding="SAME", kernel_init=he, rngs=rngs))
                inputs = features
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)

    def beside_tensors(self) -> dict[str, str]:
        """What no tensor says: see `srdef.weights.loading.check_settings`."""
        return {"input": self.normalise.__name__.removesuffix("_input")}

    def check_published(self, tensors: Mapping[str, np.ndarray]) -> None:
        """InputError unless the network has the input of torchvision's weights."""
        if self.normalise is not torchvision_input:
            raise InputError("weights of torchvision have another input: that of vgg19_torchvision")

    def endpoints(self, images: jax.Array) -> dict[str, jax.Array]:
        """Feature maps by name: `conv1_1` to `conv5_4`, each after its ReLU."""
        check_pixels(images, smallest=SMALLEST_SIDE)
        x = self.normalise(images)
        maps = {}
        for i, stage in enumerate(self.stages, 1):
            if i > 1:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="VALID")
            for j, conv in enumerate(stage, 1):
                x = maps[f"conv{i}_{j}"] = nnx.relu(conv(x))
        return maps

    def keras_names(self) -> list[str]:
        """The names of this network's tensors in the order of a Keras weights file.

        Raises
        ------
        InputError
            Unless it has the input of Keras's weights.
        """
        if self.normalise is not caffe_input:
            raise InputError("weights of Keras have another input: that of vgg19")
        layers = [f"stages.{i}.{j}" for i, (_, n) in enumerate(STAGES) for j in range(n)]
        return keras_layout.names([level for name in layers for level in keras_layout.weighted(name)])


@REGISTRY.register("vgg19")
def vgg19(*, rngs: nnx.Rngs) -> VGG19:
    """Features alone, with the input of Keras's weights; 20.0 million parameters, 19.5 GMAC at 224 px."""
    return VGG19(caffe_input, rngs=rngs)


@REGISTRY.register("vgg19_torchvision")
def vgg19_torchvision(*, rngs: nnx.Rngs) -> VGG19:
    """The same with the input of torchvision's weights."""
    return VGG19(torchvision_input, rngs=rngs)
