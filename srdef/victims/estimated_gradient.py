"""A victim whose gradient is estimated from its logits alone."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.errors import InputError
from srdef.validation import check_count, check_positive, numbers_among
from srdef.victims.base import Victim, expected

Directions = Literal["sign", "gaussian"]


@jax.custom_jvp
def _leaning(value: jax.Array, plane: jax.Array) -> jax.Array:
    """`value`, with the derivative of `plane`, which a program computes for that alone."""
    return value


@_leaning.defjvp
def _derivative(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return primals[0], tangents[1]


@struct.dataclass
class EstimatedGradient(Victim):
    """A victim that is asked for logits and never differentiated; its gradient is one of finite differences.

    With directions v_1 ... v_n and what an attack takes of the logits, f, the gradient of f at x is

        1/n Σ_i v_i (f(x + δ v_i) - f(x - δ v_i)) / (2 δ)

    so that every gradient attack is one that sees scores only, and reaches victims that have no gradient: a
    defense that rounds or searches, or a model behind `jax.pure_callback`. A gradient costs 2 n + 1 calls of
    the victim; logits alone, in a compiled program, one. Where the victim answers NaN the gradient is NaN
    too, which attacks report (`nonfinite`). Infinite logits, those of masked classes, have none. The
    directions are

    - "sign": each value +1 or -1 with equal chance, simultaneous perturbation (SPSA; Spall 1992, and
      against networks Uesato, O'Donoghue, van den Oord and Kohli 2018, arXiv:1802.05666, algorithm 1).
    - "gaussian": normal, natural evolution strategies with antithetic pairs (NES; Ilyas, Engstrom, Athalye
      and Lin 2018, arXiv:1804.08598, algorithm 1).

    The points that are asked for are images: they are clipped to [0, 1], and the estimate allows for what
    that leaves of a direction. A random victim draws anew at each of them.

    Parameters
    ----------
    victim : Victim
        Whose gradient is not used.
    samples : int
        n, the number of directions.
    radius : float
        δ, in units of the [0, 1] range.
    directions : "sign" or "gaussian"
    chunk : int, optional
        How many directions are computed at a time; None: all.

    Raises
    ------
    InputError
        For unknown directions, counts below 1, or a radius that is not above 0.
    """

    victim: Any
    samples: int = struct.field(pytree_node=False, default=128)
    radius: Any = 0.01
    directions: Directions = struct.field(pytree_node=False, default="sign")
    chunk: int | None = struct.field(pytree_node=False, default=1)

    def __post_init__(self) -> None:
        if self.directions not in get_args(Directions):
            known = ", ".join(get_args(Directions))
            raise InputError(f"unknown directions {self.directions!r}; choose from: {known}")
        check_count("samples", self.samples)
        if self.chunk is not None:
            check_count("chunk", self.chunk)
        check_positive(**numbers_among({"radius": self.radius}))

    @property
    def num_classes(self) -> int:
        return self.victim.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return self.expected(lambda logits: logits, image, key)

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """`function` of the logits, averaged over the draws of the victim; its gradient is estimated."""
        here = jax.lax.stop_gradient(image)

        def ask(x: jax.Array, key: jax.Array) -> Any:
            return jax.lax.stop_gradient(expected(self.victim, function, x, key))

        def slope(key: jax.Array) -> Any:
            plus, minus, _ = self._points(here, key)
            # The points have different draws, as those of a defender.
            keys = jax.random.split(jax.random.fold_in(key, 1))
            return jax.tree.map(self._slope, ask(plus, keys[0]), ask(minus, keys[1]))

        def along(direction: tuple[jax.Array, Any]) -> Any:
            """Zero, which changes with the image as the slopes say."""
            key, slopes = direction
            _, _, weights = self._points(here, key)
            moved = jnp.sum(weights * (image - here))
            return jax.tree.map(lambda slope: slope * moved, slopes)

        keys = jax.random.split(jax.random.fold_in(key, self.samples), self.samples)
        chunk = self.samples if self.chunk is None else min(self.chunk, self.samples)
        slopes = jax.lax.map(slope, keys, batch_size=chunk)
        # On the way back the directions are drawn once more: together they would be as large as n images.
        planes = jax.lax.map(jax.checkpoint(along), (keys, slopes), batch_size=chunk)

        def leaning(value: jax.Array, plane: jax.Array) -> jax.Array:
            return _leaning(value, plane.mean(axis=0).astype(value.dtype))

        return jax.tree.map(leaning, ask(here, key), planes)

    def _points(self, image: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The images on both sides along a direction, and what a slope between them says of each value."""
        draw = jax.random.rademacher if self.directions == "sign" else jax.random.normal
        direction = draw(key, image.shape, image.dtype)
        step = (self.radius * direction).astype(image.dtype)
        plus, minus = jnp.clip(image + step, 0, 1), jnp.clip(image - step, 0, 1)
        clipped = (plus != image + step) | (minus != image - step)
        left = jnp.where(plus != minus, plus - minus, 1)
        weights = jnp.where(clipped, jnp.where(plus != minus, 2 * step / left, 0) * direction, direction)
        return plus, minus, weights

    def _slope(self, plus: jax.Array, minus: jax.Array) -> jax.Array:
        """Masked classes, whose logits are infinite, have none."""
        masked = jnp.isinf(plus) | jnp.isinf(minus)
        return jnp.where(masked, 0, (plus - minus) / (2 * self.radius))
