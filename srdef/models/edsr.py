"""EDSR: enhanced deep residual networks for single-image super-resolution (Lim et al., 2017).

Layout and names of the hyper-parameters follow the official PyTorch code (sanghyun-son/EDSR-PyTorch,
`src/model/edsr.py`); the weights of that code fit after a change of axes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef.cpu.convolution import Conv
from srdef.errors import InputError
from srdef.models.registry import REGISTRY
from srdef.validation import check_pixels
from srdef.weights.loading import Rule, conv_kernel

# Mean RGB of DIV2K on [0, 1], as in the official code.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def pixel_shuffle(features: jax.Array, factor: int) -> jax.Array:
    """Move channels into space: `(N, H, W, C·r²)` to `(N, r·H, r·W, C)`.

    The channels are read as `(C, r, r)`, channel-major, as `torch.nn.PixelShuffle` does (Shi et al.,
    2016, equation 4); TensorFlow's `depth_to_space` is block-major, `(r, r, C)`.
    """
    n, height, width, channels = features.shape
    blocks = features.reshape(n, height, width, channels // factor**2, factor, factor)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(n, height * factor, width * factor, -1)


def conv3x3(inputs: int, outputs: int, rngs: nnx.Rngs) -> Conv:
    """3x3 convolution, zero padding, with PyTorch's default initial range for the kernel."""
    uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(inputs, outputs, (3, 3), padding="SAME", kernel_init=uniform, rngs=rngs)


class ResidualBlock(nnx.Module):
    """conv, ReLU, conv, times `residual_scale`, plus the input; no normalisation (EDSR, Figure 2c)."""

    def __init__(self, features: int, residual_scale: float, *, rngs: nnx.Rngs) -> None:
        self.conv1 = conv3x3(features, features, rngs)
        self.conv2 = conv3x3(features, features, rngs)
        self.residual_scale = residual_scale

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.residual_scale * self.conv2(nnx.relu(self.conv1(x)))


def _rules(published: str, name: str) -> tuple[Rule, Rule]:
    """The two tensors of a convolution."""
    kernel = Rule(rf"{published}\.weight", f"{name}.kernel", conv_kernel)
    return kernel, Rule(rf"{published}\.bias", f"{name}.bias")


class EDSR(nnx.Module):
    """Super-resolution by `scale`: `(N, H, W, 3)` in [0, 1] to `(N, scale·H, scale·W, 3)`.

    The output is not clipped. Any height and width.

    Parameters
    ----------
    blocks, features : int
        Number of residual blocks and of channels (16 and 64 in the baseline, 32 and 256 in EDSR).
    scale : int
        2, 3 or 4; 4 is two stages of 2.
    residual_scale : float
        Factor of each residual branch (1 in the baseline, 0.1 in EDSR).
    rgb_range : float
        The network sees `(image - mean) · rgb_range`. The official weights use 255. Dividing every
        bias by 255 is the same as using 1.
    """

    published_rules = (
        *_rules(r"head\.0", "head"),
        *_rules(r"body\.(\d+)\.body\.0", r"blocks.\1.conv1"),
        *_rules(r"body\.(\d+)\.body\.2", r"blocks.\1.conv2"),
        *_rules(r"body\.\d+", "body_end"),
        *_rules(r"tail\.0\.0", "upsample.0"),
        *_rules(r"tail\.0\.2", "upsample.1"),
        *_rules(r"tail\.1", "tail"),
        # The mean as a 1x1 convolution; here it is `mean`, which `check_published` compares.
        Rule(r"(sub|add)_mean\.(weight|bias)", None),
    )

    def __init__(
        self,
        blocks: int = 16,
        features: int = 64,
        scale: int = 2,
        residual_scale: float = 1.0,
        rgb_range: float = 255.0,
        mean: tuple[float, float, float] = DIV2K_MEAN,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if scale not in (2, 3, 4):
            raise InputError(f"EDSR scale must be 2, 3 or 4, not {scale!r}")
        if blocks < 1 or features < 1:
            raise InputError(f"EDSR needs at least one block and one feature, not {blocks} and {features}")
        self.scale = scale
        self.rgb_range = rgb_range
        self.mean = tuple(mean)
        self.stages = (2, 2) if scale == 4 else (scale,)
        self.head = conv3x3(3, features, rngs)
        self.blocks = nnx.List(ResidualBlock(features, residual_scale, rngs=rngs) for _ in range(blocks))
        self.body_end = conv3x3(features, features, rngs)
        self.upsample = nnx.List(conv3x3(features, features * r * r, rngs) for r in self.stages)
        self.tail = conv3x3(features, 3, rngs)

    def beside_tensors(self) -> dict[str, Any]:
        """What no tensor says: see `srdef.weights.loading.check_settings`."""
        residual_scale = self.blocks[0].residual_scale
        return {"rgb_range": self.rgb_range, "residual_scale": residual_scale, "mean": list(self.mean)}

    def check_published(self, tensors: Mapping[str, np.ndarray]) -> None:
        """InputError if a published file takes off another mean: its weights are of another range of levels.

        With `--rgb_range 1` the official code trains networks of the same names and shapes.
        """
        wanted = self.rgb_range * np.asarray(self.mean)
        for name, expected in (("sub_mean.bias", -wanted), ("add_mean.bias", wanted)):
            found = tensors.get(name)
            # Half precision keeps three digits.
            if found is not None and not (
                found.shape == (3,) and np.allclose(found.astype(np.float32), expected, rtol=0.01)
            ):
                raise InputError(
                    f"{name} is {', '.join(f'{value:.4g}' for value in found.ravel()[:3].tolist())}, and "
                    f"{', '.join(f'{value:.4g}' for value in expected)} with rgb_range={self.rgb_range:g}"
                )

    def __call__(self, images: jax.Array) -> jax.Array:
        check_pixels(images)
        mean = jnp.asarray(self.mean, images.dtype)
        head = self.head((images - mean) * self.rgb_range)
        x = head
        for block in self.blocks:
            x = block(x)
        x = self.body_end(x) + head
        for convolution, factor in zip(self.upsample, self.stages, strict=True):
            x = pixel_shuffle(convolution(x), factor)
        return self.tail(x) / self.rgb_range + mean


@REGISTRY.register("edsr")
def edsr(
    *,
    rngs: nnx.Rngs,
    blocks: int = 16,
    features: int = 64,
    scale: int = 2,
    residual_scale: float = 1.0,
    rgb_range: float = 255.0,
) -> EDSR:
    """EDSR of any size; the named networks below are those that papers speak of."""
    return EDSR(blocks, features, scale, residual_scale, rgb_range, rngs=rngs)


def _register(name: str, **configuration: float) -> None:
    @REGISTRY.register(name)
    def build(*, rngs: nnx.Rngs) -> EDSR:
        return EDSR(**configuration, rngs=rngs)  # type: ignore[arg-type]


# The 8 x 32 network is ours: small enough for a CPU. Its weights live on (image - mean) · 2.
_register("edsr_small_x2", blocks=8, features=32, scale=2, rgb_range=2.0)
for _scale in (2, 3, 4):
    _register(f"edsr_baseline_x{_scale}", blocks=16, features=64, scale=_scale)
    _register(f"edsr_x{_scale}", blocks=32, features=256, scale=_scale, residual_scale=0.1)
