"""Resized and padded inputs."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from srdef.validation import check_flags, check_shares, numbers_among
from srdef.victims.transformed import Transformed


@struct.dataclass
class DiverseInputs(Transformed):
    """A victim that sees each image randomly resized and padded: the τ(x; p) of DI²-FGSM.

    Equations (8) and (9) of the paper, after Xie et al. 2019 (arXiv:1803.06978) and their code
    (cihangxie/DI-2-FGSM, `attack.py`): with probability p the image is enlarged (nearest neighbour)
    to a side drawn uniformly from [299, 330) and stands at a random place on a grey canvas of side
    330, which is *not* resized back. For other sizes than 299 these numbers scale.

    Two things differ from that code. It draws once for a batch; here every image has its own draw.
    And it passes an image that is not resized on at its own size; here such an image stands in the
    middle of the same canvas, so that one program of one size serves both.

    With `same_size` the canvas is resized to the image's size (bilinear), and an image that is not resized
    stays as it is: for models of one size, and as TransferAttack does (its `DIM`, with `fill=0`).

    Its predictions, too, are those of the resized image.

    Parameters
    ----------
    victim : Victim
        Takes images of any size.
    probability : float
        p, the share of resized images.
    fill : float
        What surrounds the image on the canvas: mid-grey, the zero of networks that take [-1, 1].
    same_size : bool
        Whether what the victim sees has the size of the image.

    Raises
    ------
    InputError
        For a number that does not lie in [0, 1], and a `same_size` that is neither True nor False.
    """

    victim: Any = None
    probability: Any = 0.5
    fill: Any = 0.5
    same_size: bool = struct.field(pytree_node=False, default=False)

    def __post_init__(self) -> None:
        check_flags(same_size=self.same_size)
        check_shares(**numbers_among({"probability": self.probability, "fill": self.fill}))

    @property
    def copies(self) -> int:
        return 1

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return self.expected(lambda logits: logits, image, key)

    def transform(self, image: jax.Array, key: jax.Array, copy: Any = 0) -> jax.Array:
        """One draw of the canvas, `(round(height * 330/299), round(width * 330/299), 3)` or as the image."""
        image = jnp.asarray(image)
        resize_key, size_key, top_key, left_key = jax.random.split(key, 4)
        resized = jax.random.bernoulli(resize_key, self.probability)
        size = jax.random.uniform(size_key)
        rows, inside_rows = _place(image.shape[0], resized, size, top_key)
        columns, inside_columns = _place(image.shape[1], resized, size, left_key)
        inside = inside_rows[:, None] & inside_columns[None]
        canvas = jnp.where(inside[..., None], image[rows][:, columns], self.fill)
        if not self.same_size:
            return canvas
        return jnp.where(resized, jax.image.resize(canvas, image.shape, "linear", antialias=False), image)


def _place(side: int, resized: jax.Array, size: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each place along one axis of the canvas: which row of the image lies there, and if any.

    Parameters
    ----------
    side : int
        Of the image.
    resized : bool array ()
        Whether the image is resized and moved, or stands in the middle as it is.
    size : array ()
        In [0, 1): where in its range the new side lies.
    key : jax.random.key
        Draws the place.
    """
    canvas = canvas_side(side)
    new_side = jnp.where(resized, side + jnp.floor(size * (canvas - side)).astype(int), side)
    start = jax.random.randint(key, (), 0, jnp.maximum(canvas - new_side, 1))
    start = jnp.where(resized, start, (canvas - side) // 2)
    offset = jnp.arange(canvas) - start
    inside = (offset >= 0) & (offset < new_side)
    return jnp.clip(offset * side // new_side, 0, side - 1), inside


def canvas_side(side: int) -> int:
    """The side of the canvas of `DiverseInputs` for an image of the given side: 330 for 299."""
    return round(side * 330 / 299)
