"""Balls, boxes and hyperplanes: what attacks project onto, each for one image.

All of these are the solution of one monotone equation in one unknown. It is found by halving the
float32 numbers themselves, so it is exact to the last bit, needs no sorting, and costs the same
for every image.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from srdef.validation import Scalar

Norm = Literal["linf", "l2", "l1"]
# L0 is no norm, and no ball in it is convex: only the attacks made for it know it.
AnyNorm = Literal["linf", "l2", "l1", "l0"]

# How many floats a good guess is off at most, where one is made; a power of two.
_NEAR = 8

# The norm in which a gradient says how far its hyperplane is in the other one.
DUAL: dict[str, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def length(array: jax.Array, norm: AnyNorm) -> jax.Array:
    """The norm of all values of an array; in L0 the number of those that are not zero."""
    if norm == "l0":
        return (array != 0).sum().astype(array.dtype)
    if norm == "linf":
        return jnp.abs(array).max()
    if norm == "l2":
        return jnp.linalg.norm(array.ravel())
    return jnp.abs(array).sum()


def safe_divide(array: Any, number: jax.Array) -> jax.Array:
    """`array / number`, and zero where both are zero."""
    return array / jnp.maximum(number, jnp.finfo(jnp.float32).tiny)


def project(image: jax.Array, x: jax.Array, radius: Scalar, norm: Norm) -> jax.Array:
    """Move `x` into the ball around `image` and into [0, 1].

    In L∞ and L1 this is the nearest point of both; in L2 that of the ball, clipped, as all
    reference implementations have it (clipping cannot leave the ball, as `image` is in [0, 1]).
    """
    if norm == "linf":
        return jnp.clip(x, jnp.maximum(image - radius, 0), jnp.minimum(image + radius, 1))
    difference = x - image
    if norm == "l2":
        scale = jnp.minimum(1, safe_divide(radius, jnp.linalg.norm(difference.ravel())))
        return jnp.clip(image + scale * difference, 0, 1)
    return jnp.clip(image + project_l1(image, difference, radius), 0, 1)


def project_l1(image: jax.Array, difference: jax.Array, radius: Scalar) -> jax.Array:
    """The nearest change of `image` with an L1 norm of at most `radius` that stays in [0, 1].

    Croce and Hein 2021 (arXiv:2103.01208), proposition 2.1: sign(y) clip(|y| - λ, 0, room), with
    the smallest λ >= 0 for which it is in the ball.

    Parameters
    ----------
    image : array (height, width, 3)
    difference : array (height, width, 3)
        The change y to be projected.
    radius : scalar

    Returns
    -------
    array (height, width, 3)
    """
    shape = difference.shape
    image, difference = image.ravel(), difference.ravel()
    size = jnp.abs(difference)
    room = jnp.where(difference > 0, 1 - image, image)

    def shrunk(amount: jax.Array) -> jax.Array:
        return jnp.clip(size - amount, 0, room)

    amount = _smallest(lambda amount: _sum(shrunk(amount)) <= radius, size.max())
    return (jnp.sign(difference) * shrunk(amount)).reshape(shape)


def shrink_to_l1(difference: jax.Array, radius: Scalar) -> jax.Array:
    """The nearest values with an L1 norm of at most `radius`, sign(y) max(|y| - λ, 0), in [0, 1] or not."""
    size = jnp.abs(difference.ravel())
    amount = _smallest(lambda amount: _sum(jnp.maximum(size - amount, 0)) <= radius, size.max())
    return jnp.sign(difference) * jnp.maximum(size - amount, 0).reshape(difference.shape)


def project_l0(difference: jax.Array, count: jax.Array) -> jax.Array:
    """The `count` values that are largest in size, and zero in the place of the others.

    Of equal ones the first are kept.

    Parameters
    ----------
    difference : array (height, width, 3)
    count : array ()
        At least 0.
    """
    size = jnp.abs(difference)
    # The largest size that would be too many.
    flat = size.ravel()
    threshold = _smallest(lambda t: _sum((flat > t).astype(jnp.float32)) <= count, flat.max())
    above, at = size > threshold, size == threshold
    number = jnp.cumsum(at.ravel()).reshape(at.shape)
    return jnp.where(above | (at & (number <= count - above.sum())), difference, 0)


def project_hyperplane(x: jax.Array, normal: jax.Array, offset: jax.Array, norm: Norm) -> jax.Array:
    """The shortest change of `x` to the hyperplane `normal · x = offset` that stays in [0, 1].

    Croce and Hein 2020 (arXiv:1907.02044), section 2.2. With c = normal · x - offset, made positive
    by flipping the hyperplane's sign, the change is

        clip(x - λ sign(normal), 0, 1) - x    (L∞)
        clip(x - λ normal, 0, 1) - x          (L2)

    for the smallest λ with normal · change <= -c; in L1 the values with the largest |normal| go to
    their end of [0, 1], as many as are needed. Where the box does not reach the hyperplane, the
    change goes to the corner nearest to it.

    Parameters
    ----------
    x, normal : array (height, width, 3)
        x in [0, 1].
    offset : array ()
    norm : "linf", "l2" or "l1"

    Returns
    -------
    array (height, width, 3)
    """
    shape = x.shape
    x, normal = x.ravel(), normal.ravel()
    excess = _dot(normal, x) - offset
    normal = jnp.where(excess < 0, -normal, normal)
    excess = jnp.abs(excess)
    weight = jnp.abs(normal)
    # How far each value can go, and how much of the excess all have to undo between them.
    room = jnp.where(normal > 0, x, 1 - x)
    if norm == "l1":
        gain = weight * room
        # Values with a weight above the threshold move all the way, those with just this weight
        # share what is left.
        threshold = _smallest(lambda t: _dot(weight > t, gain) <= excess, weight.max())
        above, at = weight > threshold, weight == threshold
        left = excess - _dot(above, gain)
        share = jnp.clip(safe_divide(left, _dot(at, gain)), 0, 1)
        moved = jnp.where(above, room, jnp.where(at, share * room, 0))
        return (-jnp.sign(normal) * moved).reshape(shape)

    def moved_by(amount: jax.Array) -> jax.Array:
        return jnp.minimum(amount if norm == "linf" else amount * weight, room)

    # In L2 a step of c / |w|² is enough without the box; where the box is in the way, ever larger
    # ones may be needed.
    furthest = 1.0 if norm == "linf" else float(jnp.finfo(jnp.float32).max)
    # What the change undoes is concave in λ and bends where a value reaches its end of the box: Newton's
    # method comes from below and is there after a few bends.
    pull = jnp.ones_like(weight) if norm == "linf" else weight
    guess = safe_divide(excess, _dot(weight, pull))
    for _ in range(2):
        free = guess * pull < room
        left = excess - _dot(weight, jnp.where(free, 0, room))
        guess = safe_divide(left, _dot(weight, jnp.where(free, pull, 0)))
    amount = _smallest(lambda amount: _dot(weight, moved_by(amount)) >= excess, furthest, guess)
    return (-jnp.sign(normal) * moved_by(amount)).reshape(shape)


def order_statistic(values: jax.Array, place: jax.Array) -> jax.Array:
    """The value that has this place, counted from 0, among the sorted `values`, none of them negative."""
    values = values.ravel()
    return _smallest(lambda t: _sum((values <= t).astype(jnp.float32)) > place, values.max())


def _dot(one: jax.Array, other: jax.Array) -> jax.Array:
    """The sum of the products of two vectors.

    In a loop on a CPU two to seven times faster than a reduction, if the vectors are flat before the loop.
    """
    return jnp.dot(one.astype(other.dtype), other, precision=jax.lax.Precision.HIGHEST)


def _sum(array: jax.Array) -> jax.Array:
    return _dot(jnp.ones_like(array), array)


def _smallest(holds: Callable[[jax.Array], jax.Array], highest: Scalar, guess: Any = None) -> jax.Array:
    """The smallest float32 in [0, highest] from which on `holds` is true; `highest` if it never is.

    Non-negative floats are in the order of their bits read as integers. With a `guess`, `_NEAR` floats below
    and above it are tried first: the result is the same, and found in a fifth of the time if it is between.
    """

    def number(bits: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    def bits(number: Any) -> jax.Array:
        return jax.lax.bitcast_convert_type(jnp.float32(number), jnp.int32)

    def look(middle: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        works = holds(number(middle))
        return jnp.where(works, low, middle), jnp.where(works, middle, high)

    def halve(ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        return look(low + (high - low + 1) // 2, ends)

    ends = jnp.int32(-1), bits(highest)
    if guess is None:
        return number(jax.lax.fori_loop(0, 32, lambda _, ends: halve(ends), ends)[1])
    near = jnp.where(guess > 0, bits(jnp.minimum(guess, highest)), 0)

    def narrow(i: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = jnp.where(i < 2, near + jnp.where(i == 0, -_NEAR, _NEAR), low + (high - low + 1) // 2)
        return look(jnp.clip(middle, low + 1, high), ends)

    # A number of steps that is known before, as in most cases it is enough and some devices are faster then.
    ends = jax.lax.fori_loop(0, 2 + _NEAR.bit_length(), narrow, ends)
    return number(jax.lax.while_loop(lambda ends: ends[1] - ends[0] > 1, halve, ends)[1])
