"""The loss around an image: its gradient, and its values on a plane.

The plane is that of the direction in which the loss rises fastest within the ball, and of a random
direction: in L∞ signs, in L2 vectors of length one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from srdef.attacks.losses import cross_entropy
from srdef.attacks.projections import Norm, safe_divide
from srdef.errors import InputError
from srdef.keys import check_key
from srdef.own_code.edits import notice_edits, watched
from srdef.programs import jit
from srdef.validation import check_count, check_images
from srdef.victims import Victim, expected


def loss_gradient(victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
    """The gradient of the cross-entropy, averaged over the draws of the victim where it has several."""
    return jax.grad(lambda x: expected(victim, lambda z: cross_entropy(z, label), x, key))(image)


@jit
def gradient_norms(
    victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array
) -> jax.Array:
    """The L2 norm of the loss's gradient at each image `(N,)`."""

    def one(image: jax.Array, label: jax.Array, i: jax.Array) -> jax.Array:
        return jnp.linalg.norm(loss_gradient(victim, image, label, jax.random.fold_in(key, i)).ravel())

    return jax.vmap(one)(images, labels, ids)


def _steepest(gradient: jax.Array, norm: Norm) -> jax.Array:
    """The direction of length one along which the loss rises fastest."""
    return jnp.sign(gradient) if norm == "linf" else safe_divide(gradient, jnp.linalg.norm(gradient.ravel()))


def _random_direction(key: jax.Array, like: jax.Array, norm: Norm) -> jax.Array:
    return _steepest(jax.random.rademacher(key, like.shape, like.dtype), norm)


@partial(jit, static_argnames=("norm", "draws"))
def gradient_wins(
    victim: Victim,
    key: jax.Array,
    epsilon: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    norm: Norm,
    draws: int,
) -> jax.Array:
    """Whether the loss rises at all along the steepest direction, and more than along a random one."""

    def one(image: jax.Array, label: jax.Array, i: jax.Array) -> jax.Array:
        gradient_key, random_key, loss_key = jax.random.split(jax.random.fold_in(key, i), 3)
        steepest = _steepest(loss_gradient(victim, image, label, gradient_key), norm)
        across = _random_direction(random_key, image, norm)
        keys = jax.random.split(loss_key, draws)

        def loss(perturbation: jax.Array) -> jax.Array:
            x = jnp.clip(image + perturbation, 0, 1)

            def draw(k: jax.Array) -> jax.Array:
                return expected(victim, lambda z: cross_entropy(z, label), x, k)

            return jax.lax.map(draw, keys).mean()

        # The best of a few lengths: a full step may go past the top.
        lengths = epsilon * jnp.array([0.25, 0.5, 1.0])
        along = jax.lax.map(lambda length: loss(length * steepest), lengths).max()
        random = jax.lax.map(lambda length: loss(length * across), lengths).max()
        return (along > random) & (along > loss(jnp.zeros_like(image)))

    return jax.vmap(one)(images, labels, ids)


@partial(jit, static_argnames=("norm", "points", "draws"))
def _landscape(
    victim: Victim,
    image: jax.Array,
    label: jax.Array,
    key: jax.Array,
    epsilon: jax.Array,
    *,
    norm: Norm,
    points: int,
    draws: int,
) -> jax.Array:
    gradient_key, random_key, loss_key = jax.random.split(key, 3)
    along = _steepest(loss_gradient(victim, image, label, gradient_key), norm)
    across = _random_direction(random_key, image, norm)
    steps = jnp.linspace(-epsilon, epsilon, points)
    keys = jax.random.split(loss_key, draws)

    def loss(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        x = jnp.clip(image + pair[0] * along + pair[1] * across, 0, 1)
        return jax.lax.map(lambda k: expected(victim, lambda z: cross_entropy(z, label), x, k), keys).mean()

    a, b = jnp.meshgrid(steps, steps, indexing="ij")
    return jax.lax.map(loss, (a.ravel(), b.ravel())).reshape(points, points)


@watched
def loss_landscape(
    victim: Victim,
    image: np.ndarray | jax.Array,
    label: int,
    *,
    key: jax.Array,
    epsilon: float = 8 / 255,
    norm: Norm = "linf",
    points: int = 21,
    draws: int = 1,
) -> np.ndarray:
    """The cross-entropy around one image, on the plane of the steepest and a random direction.

    Parameters
    ----------
    image : float array (height, width, 3)
    label : int
    epsilon : float
        The plane reaches from -ε to ε along both directions.
    norm : "linf" or "l2"
        In which ε is measured.
    points : int
        Along each direction; odd, so that the image itself is in the middle.
    draws : int
        Draws of a random victim over which each value is averaged; the same for all values.

    Returns
    -------
    float array (points, points)
        Losses; the first axis is the gradient's.
    """
    check_count("points", points)
    check_count("draws", draws)
    if points % 2 == 0:
        raise InputError(f"points must be odd, not {points}")
    image, key = check_images(np.asarray(image)[None])[0], check_key(key)
    notice_edits(victim)
    return np.asarray(
        _landscape(
            victim, image, jnp.int32(label), key, jnp.float32(epsilon), norm=norm, points=points, draws=draws
        )
    )
