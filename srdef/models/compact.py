"""The compact network of Real-ESRGAN (Wang et al., 2021, arXiv:2107.10833): for little time or hardware.

The authors call it SRVGGNetCompact (xinntao/Real-ESRGAN, `realesrgan/archs/srvgg_arch.py`): a plain stack of
3x3 convolutions, all at low resolution, that is added to nearest-neighbour interpolation. Per parameter it
costs a quarter of EDSR, whose upsampling has four times the channels and whose last layer runs at high
resolution.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from srdef.errors import InputError
from srdef.models.edsr import conv3x3, pixel_shuffle
from srdef.models.registry import REGISTRY
from srdef.models.srresnet import PReLU
from srdef.validation import check_pixels
from srdef.weights.loading import Rule, conv_kernel


class Compact(nnx.Module):
    """Super-resolution by `scale`: `(N, H, W, 3)` in [0, 1] to `(N, scale·H, scale·W, 3)`.

    The output is not clipped. Any height and width.

    Parameters
    ----------
    convolutions, features : int
        Number of convolutions between the first and the last one, and of channels (32 or 16 and 64 in the
        published weights).
    scale : int
        2, 3 or 4.

    Raises
    ------
    InputError
        For another scale, or sizes below 1.
    """

    def __init__(self, convolutions: int = 16, features: int = 64, scale: int = 4, *, rngs: nnx.Rngs) -> None:
        if scale not in (2, 3, 4):
            raise InputError(f"the scale of a compact network must be 2, 3 or 4, not {scale!r}")
        if convolutions < 1 or features < 1:
            raise InputError(
                f"a compact network needs at least one of its convolutions and features, not {convolutions} "
                f"and {features}"
            )
        self.scale = scale
        self.head = conv3x3(3, features, rngs)
        self.head_activation = PReLU(features)
        self.body = nnx.List(conv3x3(features, features, rngs) for _ in range(convolutions))
        self.activations = nnx.List(PReLU(features) for _ in range(convolutions))
        self.upsample = conv3x3(features, 3 * scale * scale, rngs)

    @property
    def published_rules(self) -> tuple[Rule, ...]:
        """The authors number convolutions and activations in one list."""
        layers = [("head", "head_activation")]
        layers += [(f"body.{i}", f"activations.{i}") for i in range(len(self.body))]
        rules: list[Rule] = []
        for number, (conv, activation) in enumerate(layers):
            rules += _convolution_rules(2 * number, conv)
            rules.append(Rule(rf"body\.{2 * number + 1}\.weight", f"{activation}.slope"))
        return (*rules, *_convolution_rules(2 * len(layers), "upsample"))

    def __call__(self, images: jax.Array) -> jax.Array:
        check_pixels(images)
        x = self.head_activation(self.head(images))
        for convolution, activation in zip(self.body, self.activations, strict=True):
            x = activation(convolution(x))
        nearest = jnp.repeat(jnp.repeat(images, self.scale, axis=1), self.scale, axis=2)
        return nearest + pixel_shuffle(self.upsample(x), self.scale)


def _convolution_rules(number: int, name: str) -> tuple[Rule, Rule]:
    """The two tensors of the convolution that the authors call `body.number`."""
    return (
        Rule(rf"body\.{number}\.weight", f"{name}.kernel", conv_kernel),
        Rule(rf"body\.{number}\.bias", f"{name}.bias"),
    )


@REGISTRY.register("compact")
def compact(*, rngs: nnx.Rngs, convolutions: int = 16, features: int = 64, scale: int = 4) -> Compact:
    """A compact network of any size; by default that of `realesr-animevideov3`."""
    return Compact(convolutions, features, scale, rngs=rngs)


def _register(scale: int) -> None:
    @REGISTRY.register(f"compact_x{scale}")
    def build(*, rngs: nnx.Rngs) -> Compact:
        return Compact(convolutions=6, features=24, scale=scale, rngs=rngs)


# Ours, below 2 GFLOPs for 160 x 160 pixels at scale 2; docs/guides/training.md has how its size was chosen.
for _scale in (2, 3, 4):
    _register(_scale)
