"""Random resizing and padding (Xie et al. 2018, "Mitigating adversarial effects through randomization")."""

from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp

from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_number
from srdef.errors import InputError

Method = Literal["nearest", "bilinear"]


@REGISTRY.register("resize_pad")
@flax.struct.dataclass
class ResizePad:
    """Enlarge to a random size, put it at a random place of a grey canvas, and flip it half the time.

    Random, differentiable. The result is `canvas` times the size, rounded. There is no sensible
    surrogate; what an adaptive attack needs is the expectation over the draws. The original
    averages the predictions of 30 passes: `"passes": 30` in an evaluation's configuration.

    The sizes are those of the NIPS 2017 entry (cihangxie/NIPS2017_adv_challenge_defense,
    `defense.py`), relative to its 299 pixels. Resizing is TensorFlow 1's, without aligned corners:
    output pixel i reads position i times input size / output size.

    Parameters
    ----------
    low, canvas : float
        The shorter side is drawn uniformly from the integers in [round(low * side),
        round(canvas * side)). Athalye et al. (2018) use low = 1 (299 to 331).
    method : "nearest" or "bilinear"
        The original uses nearest, Athalye et al. bilinear.
    pad_value : float
        The value of the padding: 0.5 is the original's zero in its range of [-1, 1]. Leaf.
    flip : bool
        Mirror left and right with probability 1/2.

    Raises
    ------
    InputError
        For an unknown method, unless 1 <= low <= canvas, or for a pad_value outside [0, 1].
    """

    low: float = flax.struct.field(pytree_node=False, default=310 / 299)
    canvas: float = flax.struct.field(pytree_node=False, default=331 / 299)
    method: Method = flax.struct.field(pytree_node=False, default="nearest")
    pad_value: float | jax.Array = 0.5
    flip: bool = flax.struct.field(pytree_node=False, default=True)

    random: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method not in ("nearest", "bilinear"):
            raise InputError(f"resize_pad: unknown method {self.method!r}; choose from: nearest, bilinear")
        check_number("resize_pad", "low", self.low, 1)
        check_number("resize_pad", "canvas", self.canvas, self.low)
        check_number("resize_pad", "pad_value", self.pad_value, 0, 1)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Transform one image, (H, W, channels) in [0, 1]."""
        height, width, _ = image.shape
        rows, columns = round(self.canvas * height), round(self.canvas * width)
        shorter = min(height, width)
        smallest, bound = round(self.low * shorter), round(self.canvas * shorter)

        key_size, key_top, key_left, key_flip = jax.random.split(key, 4)
        side = jax.random.randint(key_size, (), smallest, max(bound, smallest + 1))
        # The longer side keeps the proportion; the clip only matters when rounding goes against it.
        new_height = jnp.clip(jnp.round(side * (height / shorter)).astype(int), height, rows)
        new_width = jnp.clip(jnp.round(side * (width / shorter)).astype(int), width, columns)
        top = jax.random.randint(key_top, (), 0, rows - new_height + 1)
        left = jax.random.randint(key_left, (), 0, columns - new_width + 1)

        image = self._resized_axis(image, 0, rows, top, new_height)
        image = self._resized_axis(image, 1, columns, left, new_width)
        y = jnp.arange(rows)[:, None, None] - top
        x = jnp.arange(columns)[None, :, None] - left
        inside = (y >= 0) & (y < new_height) & (x >= 0) & (x < new_width)
        image = jnp.where(inside, image, self.pad_value)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(key_flip), image[:, ::-1], image)
        return image

    def _resized_axis(
        self, image: jax.Array, axis: int, length: int, start: jax.Array, new_size: jax.Array
    ) -> jax.Array:
        """One axis of the canvas: the image from `start` on, `new_size` long, anything elsewhere."""
        size = image.shape[axis]
        index = jnp.clip(jnp.arange(length) - start, 0, new_size - 1)
        # In integers: a product with the rounded ratio may fall just below a whole number.
        first = index * size // new_size
        if self.method == "nearest":
            return jnp.take(image, first, axis=axis)
        weight = ((index * size % new_size) / new_size).astype(image.dtype)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        second = jnp.minimum(first + 1, size - 1)
        return (1 - weight) * jnp.take(image, first, axis=axis) + weight * jnp.take(image, second, axis=axis)
