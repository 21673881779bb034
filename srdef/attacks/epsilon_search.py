"""Which ε to try next, for the attack `minimal_epsilon`: bisection, and a grid with a finer one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct


class Interval(struct.PyTreeNode):
    """Where a bisection is."""

    epsilon: jax.Array  # that of the run to come
    low: jax.Array  # the largest ε of the halvings that does not fool
    high: jax.Array  # the smallest one that does; infinite before the first
    left: jax.Array  # how many runs there are to come


class Point(struct.PyTreeNode):
    """Where a search on a grid is."""

    epsilon: jax.Array  # that of the run to come
    spacing: jax.Array
    number: jax.Array  # which point of the grid it is, from 0
    left: jax.Array  # how many runs there are to come
    refined: jax.Array  # whether this is the finer grid


@dataclass(frozen=True)
class Bisection:
    """Try larger and larger ε until one fools, then halve the interval between 0 and it.

    Attributes
    ----------
    growths : int
        How many ε are tried until one fools.
    halvings : int
    factor : float
        That between one of them and the next.
    """

    growths: int
    halvings: int
    factor: float = 1.5

    @property
    def reach(self) -> float:
        """The largest ε that is tried, in units of the first."""
        return self.factor ** (self.growths - 1)

    @property
    def runs(self) -> int:
        """At most so many runs of the attack."""
        return self.growths + self.halvings

    def start(self, epsilon: jax.Array) -> Interval:
        """Before the first run."""
        none = jnp.full_like(epsilon, jnp.inf)
        return Interval(epsilon, jnp.zeros_like(epsilon), none, jnp.int32(self.growths))

    def next(self, at: Interval, fooled: jax.Array) -> Interval:
        """After a run that has fooled the victim, or has not."""
        growing = jnp.isinf(at.high)
        high = jnp.where(fooled, at.epsilon, at.high)
        low = jnp.where(growing | fooled, at.low, at.epsilon)
        epsilon = jnp.where(jnp.isinf(high), self.factor * at.epsilon, (low + high) / 2)
        left = jnp.where(growing & fooled, self.halvings, at.left - 1)
        return Interval(epsilon, low, high, left)


@dataclass(frozen=True)
class Grid:
    """Try rising ε until one fools; if it is one of the first, look between 0 and it on a finer grid.

    Attributes
    ----------
    count : int
        Points of the grid; the last is the ε of the attack.
    finer : int
        Points of the second one, and how many first points of the first lead to it.
    """

    count: int = 1000
    finer: int = 20

    @property
    def reach(self) -> float:
        """The largest ε that is tried, in units of the attack's."""
        return 1.0

    @property
    def runs(self) -> int:
        """At most so many runs of the attack."""
        return self.count + self.finer

    def start(self, epsilon: jax.Array) -> Point:
        """Before the first run."""
        spacing = epsilon / self.count
        return Point(spacing, spacing, jnp.int32(0), jnp.int32(self.count), jnp.bool_(False))

    def next(self, at: Point, fooled: jax.Array) -> Point:
        """After a run that has fooled the victim, or has not."""
        refine = fooled & ~at.refined & (at.number < self.finer)
        spacing = jnp.where(refine, at.epsilon / self.finer, at.spacing)
        number = jnp.where(refine, 0, at.number + 1)
        left = jnp.where(refine, self.finer, jnp.where(fooled, 0, at.left - 1))
        return Point(spacing * (number + 1), spacing, number, left, at.refined | refine)
