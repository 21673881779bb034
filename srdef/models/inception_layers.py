"""What Inception-v3 and Inception-ResNet-v2 have in common: the stem and the branches."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from srdef.cpu import convolution
from srdef.validation import check_pixels
from srdef.weights import keras_layout

# The smallest side that leaves one pixel for the last block, as in keras.applications.
SMALLEST_SIDE = 75


@dataclass(frozen=True)
class Conv:
    """A convolution: channels, kernel (rows, columns), stride, padding."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


@dataclass(frozen=True)
class Path:
    """A branch: a 3x3 pooling or none, convolutions, and perhaps a fork.

    Parameters
    ----------
    convolutions : tuple of Conv
        One after the other.
    pool : str
        "average" (stride 1, padding not counted), "max" (stride 2, no padding), or "" for none.
    fork : int
        If not 0, the branch ends in a 1x3 and a 3x1 convolution side by side, each with so many channels.
    """

    convolutions: tuple[Conv, ...] = ()
    pool: str = ""
    fork: int = 0


def average_pool(x: jax.Array) -> jax.Array:
    """3x3 mean at stride 1; zeros of the padding are not counted."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum at stride 2, without padding."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")


class ConvNorm(nnx.Module):
    """Convolution without bias, batch normalisation without scale (epsilon 1e-3), ReLU."""

    def __init__(self, inputs: int, layer: Conv, *, rngs: nnx.Rngs) -> None:
        self.conv = convolution.Conv(
            inputs,
            layer.features,
            layer.kernel,
            strides=layer.stride,
            padding=layer.padding,
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            layer.features, use_running_average=True, momentum=0.99, epsilon=1e-3, use_scale=False, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(x)))

    def keras_levels(self, name: str) -> keras_layout.Levels:
        return (
            keras_layout.weighted(f"{name}.conv", bias=False)
            + keras_layout.batch_norm(f"{name}.norm", scale=False)
            + keras_layout.WITHOUT_WEIGHTS
        )


class Branch(nnx.Module):
    """The layers of a `Path`."""

    def __init__(self, inputs: int, path: Path, *, rngs: nnx.Rngs) -> None:
        self.pool = path.pool
        layers = []
        for layer in path.convolutions:
            layers.append(ConvNorm(inputs, layer, rngs=rngs))
            inputs = layer.features
        self.layers = nnx.List(layers)
        kernels = ((1, 3), (3, 1)) if path.fork else ()
        self.fork = nnx.List(ConvNorm(inputs, Conv(path.fork, kernel), rngs=rngs) for kernel in kernels)
        self.outputs = 2 * path.fork or inputs

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.pool:
            x = average_pool(x) if self.pool == "average" else max_pool(x)
        for layer in self.layers:
            x = layer(x)
        return jnp.concatenate([layer(x) for layer in self.fork], axis=-1) if len(self.fork) else x

    def keras_levels(self, name: str) -> keras_layout.Levels:
        levels = [
            level for i, layer in enumerate(self.layers) for level in layer.keras_levels(f"{name}.layers.{i}")
        ]
        if len(self.fork):
            ends = [layer.keras_levels(f"{name}.fork.{i}") for i, layer in enumerate(self.fork)]
            levels += keras_layout.in_parallel(*ends) + keras_layout.WITHOUT_WEIGHTS
        return levels


class Mixed(nnx.Module):
    """Branches side by side, their results concatenated."""

    def __init__(self, inputs: int, paths: Sequence[Path], *, rngs: nnx.Rngs) -> None:
        self.branches = nnx.List(Branch(inputs, path, rngs=rngs) for path in paths)
        self.outputs = sum(branch.outputs for branch in self.branches)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([branch(x) for branch in self.branches], axis=-1)

    def keras_levels(self, name: str) -> keras_layout.Levels:
        branches = [branch.keras_levels(f"{name}.branches.{i}") for i, branch in enumerate(self.branches)]
        return keras_layout.in_parallel(*branches) + keras_layout.WITHOUT_WEIGHTS


class Stem(nnx.Module):
    """Images `(N, H, W, 3)` in [0, 1] to 192 channels at about an eighth of the size."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.outputs = 192
        self.conv1 = ConvNorm(3, Conv(32, (3, 3), 2, "VALID"), rngs=rngs)
        self.conv2 = ConvNorm(32, Conv(32, (3, 3), padding="VALID"), rngs=rngs)
        self.conv3 = ConvNorm(32, Conv(64, (3, 3)), rngs=rngs)
        self.conv4 = ConvNorm(64, Conv(80), rngs=rngs)
        self.conv5 = ConvNorm(80, Conv(192, (3, 3), padding="VALID"), rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        check_pixels(images, smallest=SMALLEST_SIDE)
        x = self.conv3(self.conv2(self.conv1(2 * images - 1)))
        return max_pool(self.conv5(self.conv4(max_pool(x))))

    def keras_levels(self, name: str) -> keras_layout.Levels:
        layers = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)
        return [level for i, layer in enumerate(layers, 1) for level in layer.keras_levels(f"{name}.conv{i}")]
