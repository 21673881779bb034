"""SRResNet, the generator of SRGAN (Ledig et al., 2017, arXiv:1609.04802, Figure 4).

SRResNet and the generator of SRGAN are one network; they differ in the loss that trained them.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.errors import InputError
from srdef.models.edsr import pixel_shuffle
from srdef.models.registry import REGISTRY
from srdef.validation import check_pixels


class PReLU(nnx.Module):
    """`max(x, 0) + slope · min(x, 0)`, the slope trained, at first 0.25 (He et al., 2015).

    Parameters
    ----------
    slopes : int
        One for all channels, or as many as there are channels.
    """

    def __init__(self, slopes: int = 1) -> None:
        self.slope = nnx.Param(jnp.full((slopes,), 0.25, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0, x, self.slope[...] * x)


def convolution(inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> Conv:
    """Convolution with zero padding and PyTorch's default initial range for the kernel."""
    uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(inputs, outputs, (size, size), padding="SAME", kernel_init=uniform, rngs=rngs)


class ConvNorm(nnx.Module):
    """3x3 convolution, then batch normalisation."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.conv = convolution(features, features, 3, rngs)
        norm = nnx.BatchNorm(features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.norm: nnx.BatchNorm | None = nnx.data(norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    def fold(self) -> None:
        """Take the normalisation into the convolution, whose result it scales and shifts by constants."""
        norm, conv = self.norm, self.conv
        assert norm is not None
        assert norm.scale is not None
        assert norm.bias is not None
        assert conv.bias is not None
        scale = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)
        conv.kernel[...] = conv.kernel[...] * scale
        conv.bias[...] = (conv.bias[...] - norm.mean[...]) * scale + norm.bias[...]
        self.norm = None


class ResidualBlock(nnx.Module):
    """conv, norm, PReLU, conv, norm, plus the input."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = ConvNorm(features, rngs=rngs)
        self.activation = PReLU()
        self.conv2 = ConvNorm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv2(self.activation(self.conv1(x)))


class SRResNet(nnx.Module):
    """Super-resolution by `scale`: `(N, H, W, 3)` in [0, 1] to `(N, scale·H, scale·W, 3)`.

    The output is not clipped. Any height and width. The network reads [0, 1] and writes [-1, 1], as in
    Section 3.2 of the paper; the result is brought back to [0, 1].

    Parameters
    ----------
    blocks, features : int
        Number of residual blocks and of channels (16 and 64 in the paper).
    scale : int
        2, 3 or 4; 4, the paper's, is two stages of 2.
    """

    def __init__(self, blocks: int = 16, features: int = 64, scale: int = 4, *, rngs: nnx.Rngs) -> None:
        if scale not in (2, 3, 4):
            raise InputError(f"SRResNet scale must be 2, 3 or 4, not {scale!r}")
        if blocks < 1 or features < 1:
            raise InputError(
                f"SRResNet needs at least one block and one feature, not {blocks} and {features}"
            )
        self.scale = scale
        self.stages = (2, 2) if scale == 4 else (scale,)
        self.head = convolution(3, features, 9, rngs)
        self.head_activation = PReLU()
        self.blocks = nnx.List(ResidualBlock(features, rngs=rngs) for _ in range(blocks))
        self.body_end = ConvNorm(features, rngs=rngs)
        self.upsample = nnx.List(convolution(features, features * r * r, 3, rngs) for r in self.stages)
        self.upsample_activations = nnx.List(PReLU() for _ in self.stages)
        self.tail = convolution(features, 3, 9, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        check_pixels(images)
        head = self.head_activation(self.head(images))
        x = head
        for block in self.blocks:
            x = block(x)
        x = self.body_end(x) + head
        for conv, factor, activation in zip(
            self.upsample, self.stages, self.upsample_activations, strict=True
        ):
            x = activation(pixel_shuffle(conv(x), factor))
        return (self.tail(x) + 1) / 2

    def fold_batch_norm(self) -> "SRResNet":
        """The same function in evaluation mode without normalisations: faster, and not to be trained."""
        folded = nnx.clone(self)
        for block in folded.blocks:
            block.conv1.fold()
            block.conv2.fold()
        folded.body_end.fold()
        return folded


@REGISTRY.register("srresnet")
def srresnet(*, rngs: nnx.Rngs, blocks: int = 16, features: int = 64, scale: int = 4) -> SRResNet:
    """SRResNet, or the generator of SRGAN, of any size; the paper's by default (1.5 million parameters)."""
    return SRResNet(blocks, features, scale, rngs=rngs)


def _register(name: str, scale: int) -> None:
    @REGISTRY.register(name)
    def build(*, rngs: nnx.Rngs) -> SRResNet:
        return SRResNet(scale=scale, rngs=rngs)


# One network under two names: what trained it is part of what it is.
for _scale in (2, 4):
    _register(f"srresnet_x{_scale}", _scale)
    _register(f"srgan_x{_scale}", _scale)
