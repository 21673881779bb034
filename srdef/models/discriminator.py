"""The discriminator of SRGAN (Ledig et al., 2017, arXiv:1609.04802, Figure 4): only training needs it."""

import jax
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.errors import InputError
from srdef.validation import check_pixels

SLOPE = 0.2
# Channels and stride of the convolutions after the first (64 channels, stride 1, not normalised).
BLOCKS = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2))
REDUCTION = 16  # by the four strides of 2


def convolution(inputs: int, outputs: int, stride: int, *, bias: bool, rngs: nnx.Rngs) -> Conv:
    """3x3 convolution with one pixel of zeros around and PyTorch's default initial range."""
    uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(
        inputs,
        outputs,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=bias,
        kernel_init=uniform,
        rngs=rngs,
    )


def linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Dense layer with PyTorch's default initial range for the kernel."""
    uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nnx.Linear(inputs, outputs, kernel_init=uniform, rngs=rngs)


class Block(nnx.Module):
    """Convolution, batch normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs) -> None:
        # The normalisation takes off the mean, and with it any bias.
        self.conv = convolution(inputs, outputs, stride, bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.leaky_relu(self.norm(self.conv(x)), SLOPE)


class Discriminator(nnx.Module):
    """Images `(N, size, size, 3)` in [0, 1] to the logits `(N,)` of being real photographs.

    Parameters
    ----------
    size : int
        Side of the images: a dense layer reads the whole last feature map.
    features : int
        Channels of the first convolution (64 in the paper); the others are multiples of it.
    hidden : int
        Width of the first dense layer (1024 in the paper).
    """

    def __init__(self, size: int, features: int = 64, hidden: int = 1024, *, rngs: nnx.Rngs) -> None:
        if size < 1 or features < 1 or hidden < 1:
            raise InputError(
                f"the discriminator needs a size, features and hidden of at least 1, "
                f"not {size}, {features} and {hidden}"
            )
        self.size = size
        self.stem = convolution(3, features, 1, bias=True, rngs=rngs)
        blocks = []
        inputs = features
        for channels, stride in BLOCKS:
            outputs = channels * features // 64
            blocks.append(Block(inputs, outputs, stride, rngs=rngs))
            inputs = outputs
        self.blocks = nnx.List(blocks)
        side = -(-size // REDUCTION)
        self.dense = linear(side * side * inputs, hidden, rngs)
        self.classifier = linear(hidden, 1, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        check_pixels(images)
        # The networks of the paper see [-1, 1].
        x = nnx.leaky_relu(self.stem(2 * images - 1), SLOPE)
        for block in self.blocks:
            x = block(x)
        x = nnx.leaky_relu(self.dense(x.reshape(len(x), -1)), SLOPE)
        return self.classifier(x)[:, 0]
