"""Pixel deflection (Prakash et al. 2018, "Deflecting adversarial attacks with pixel deflection")."""

from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from srdef import images
from srdef.defenses.base import REGISTRY, needs_classifier
from srdef.defenses.options import check_integer
from srdef.defenses.wavelet import Wavelet
from srdef.errors import InputError


class Draws(NamedTuple):
    """Where `deflect` writes and reads, integers (deflections,) each."""

    row: jax.Array
    column: jax.Array
    channel: jax.Array
    from_row: jax.Array
    from_column: jax.Array


def _scaled(x: jax.Array) -> jax.Array:
    """Scale the last two axes to [0, 1]; a constant becomes zero."""
    low = x.min(axis=(-2, -1), keepdims=True)
    span = x.max(axis=(-2, -1), keepdims=True) - low
    return (x - low) / jnp.where(span > 0, span, 1)


def robust_activation_map(classifier: Any, image: jax.Array, classes: int = 5) -> jax.Array:
    """The robust class activation map of an image, (H, W) in [0, 1].

    The maps of the `classes` most likely classes, each scaled to [0, 1], are summed with weights
    1/2, 1/4, 1/8, ... so that a changed first place matters less (section 4.1 of the paper). A classifier
    with fewer classes has all of them summed.

    Parameters
    ----------
    classifier : nnx.Module
        With `features(images)`, the last feature map before global average pooling, and `classifier`: a
        dense layer, or SqueezeNet's 1x1 convolution, whose positive parts are averaged.
    image : array (H, W, 3) in [0, 1]
    classes : int
    """
    features = classifier.features(image[None])[0]
    kernel, bias = classifier.classifier.kernel[...], classifier.classifier.bias[...]
    if kernel.ndim == 2:
        logits = features.mean(axis=(0, 1)) @ kernel + bias
    else:
        kernel = kernel.reshape(-1, kernel.shape[-1])
        logits = jax.nn.relu(features @ kernel + bias).mean(axis=(0, 1))
    classes = min(classes, logits.size)
    _, best = jax.lax.top_k(logits, classes)
    maps = _scaled(jnp.einsum("hwc,ck->khw", features, kernel[:, best]))
    weights = 0.5 ** jnp.arange(1, classes + 1)
    combined = jnp.einsum("k,khw->hw", weights, maps)[..., None]
    height, width, _ = image.shape
    return _scaled(images.resize(combined, height, width, "bilinear")[..., 0])


def draw(key: jax.Array, probability: jax.Array, deflections: int, window: int, channels: int = 3) -> Draws:
    """Draw the pixels to change and those to copy.

    The original draws a pixel uniformly and skips it with the probability that the map gives, and
    draws its neighbour anew until it lies inside the image. Drawing pixels in proportion to one
    minus the map, and neighbours from the part of the window inside the image, is the same.
    (The original also never reads row 0 and column 0, which looks like an oversight.)

    Parameters
    ----------
    key : JAX random key
    probability : array (H, W) in [0, 1]
    deflections, window, channels : int
    """
    height, width = probability.shape
    key_pixel, key_row, key_column = jax.random.split(key, 3)
    total = jnp.cumsum(1 - probability.ravel())
    pixel = jnp.searchsorted(total, jax.random.uniform(key_pixel, (deflections,)) * total[-1], side="right")
    row, column = jnp.divmod(jnp.minimum(pixel, height * width - 1), width)

    def near(key: jax.Array, position: jax.Array, size: int) -> jax.Array:
        low = jnp.maximum(position - window, 0)
        high = jnp.minimum(position + window, size - 1)
        return jax.random.randint(key, position.shape, low, high + 1)

    channel = jnp.arange(deflections) % channels
    return Draws(row, column, channel, near(key_row, row, height), near(key_column, column, width))


def deflect(image: jax.Array, draws: Draws) -> jax.Array:
    """Copy one value after the other, so that a later draw may read what an earlier one wrote."""

    def copy(i: jax.Array, image: jax.Array) -> jax.Array:
        row, column, channel, from_row, from_column = (x[i] for x in draws)
        return image.at[row, column, channel].set(image[from_row, from_column, channel])

    return jax.lax.fori_loop(0, draws.row.size, copy, image)


@flax.struct.dataclass
class PixelDeflection:
    """Replace some values by values nearby, away from what the classifier looks at; then denoise.

    Random, differentiable, same size. Adaptive attacks use the identity as the surrogate (Carlini
    breaks this defense that way), and average over draws.

    Parameters
    ----------
    classifier : nnx.Module or None
        Its robust class activation map gives the probability that a pixel is spared. None spares
        none (the original's `-disable_map`).
    denoiser : Wavelet or None
        What follows: BayesShrink with sigma 0.04 in YCbCr by default.
    deflections : int
        How many values (of one channel each) are replaced.
    window : int
        How far away the copied value lies at most, along each axis.

    Raises
    ------
    InputError
        If deflections or window is no whole number or below 1.
    """

    classifier: Any = None
    denoiser: Wavelet | None = flax.struct.field(default_factory=Wavelet)
    deflections: int = flax.struct.field(pytree_node=False, default=200)
    window: int = flax.struct.field(pytree_node=False, default=10)

    random: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("deflections", "window"):
            check_integer("pixel_deflection", name, getattr(self, name), 1)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Defend one image, (H, W, channels) in [0, 1]."""
        if self.classifier is None:
            probability = jnp.zeros(image.shape[:2], image.dtype)
        else:
            probability = robust_activation_map(self.classifier, jax.lax.stop_gradient(image))
        draws = draw(key, probability, self.deflections, self.window, image.shape[-1])
        image = deflect(image, draws)
        return image if self.denoiser is None else self.denoiser(image, key)


def _check_classifier(classifier: Any) -> None:
    kernel = getattr(getattr(classifier, "classifier", None), "kernel", None)
    if kernel is None or not hasattr(classifier, "features"):
        raise InputError("pixel_deflection: the classifier needs `features` and a last layer `classifier`")
    if kernel.ndim != 2 and kernel.shape[:-2] != (1, 1):
        raise InputError("pixel_deflection: the classifier's last layer must be dense or a 1x1 convolution")


@REGISTRY.register("pixel_deflection")
@needs_classifier
def create_pixel_deflection(
    classifier: Any = None, sigma: float | None = 0.04, deflections: int = 200, window: int = 10
) -> PixelDeflection:
    """Build `PixelDeflection` with BayesShrink of this sigma (None: no denoising).

    Raises
    ------
    InputError
        As `PixelDeflection`, and if the classifier has no `features`, or its last layer `classifier` is
        missing (a network that was built without one) or of another kind.
    """
    if classifier is not None:
        _check_classifier(classifier)
    denoiser = None if sigma is None else Wavelet(sigma=sigma)
    return PixelDeflection(classifier, denoiser, deflections=deflections, window=window)
