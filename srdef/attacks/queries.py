"""What searches share that ask for nothing but logits: what they lower, what they keep, and when they end."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import Attack, is_adversarial
from srdef.attacks.losses import cross_entropy
from srdef.attacks.nearest import lead_to_undo
from srdef.victims import Victim, expected


class QueryState(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    draws: jax.Array  # queries that one evaluation of the victim costs
    x: jax.Array
    loss: jax.Array  # what the search lowers, at x
    adversarial: jax.Array


def passed(schedule: tuple[int, ...], iteration: jax.Array, queries: Any) -> jax.Array:
    """How many points of a schedule for 10000 queries lie behind an iteration of as many as there are.

    Without the product of both numbers, which int32 does not hold with more than 214748 queries.

    Parameters
    ----------
    schedule : tuple of int
    iteration : int array ()
    queries : int or int array ()
    """
    after = jnp.array(schedule, jnp.int32) + 1
    # The first iteration with iteration * 10000 // queries >= after.
    first = after * (queries // 10_000) - (-(after * (queries % 10_000)) // 10_000)
    return (iteration >= first).sum()


class QuerySearch(Attack):
    """A search that keeps what lowers a loss and ends with its first success, unless `stop_early` is off.

    Its state is a `QueryState`.

    Attributes
    ----------
    queries : int
        Most evaluations of the network after that of the start.
    stop_early : bool
    """

    uses_gradients: ClassVar[bool] = False
    queries: int
    stop_early: bool

    @property
    def max_steps(self) -> int:
        return self.queries

    @property
    def stops_early(self) -> bool:
        return self.stop_early

    def finished(self, state: Any) -> jax.Array:
        return state.adversarial | ((state.iteration + 1) * state.draws > self.queries)

    def result(self, state: Any) -> jax.Array:
        return state.x

    def ask(
        self, victim: Victim, x: jax.Array, label: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What the search lowers, and whether it may end at `x`."""
        value, logits = self.loss_at(victim, x, label, key)
        # No comparison with NaN holds: nothing would ever be better.
        value = jnp.where(jnp.isnan(value), jnp.inf, value)
        return value, self.stop_early & is_adversarial(self, logits, label)

    def loss_at(
        self, victim: Victim, x: jax.Array, label: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The lead of the label over the best other class, or the target's cross-entropy; and the logits."""

        def loss(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
            if self.targeted:
                return cross_entropy(logits, label), logits
            return lead_to_undo(logits, label, False), logits

        return expected(victim, loss, x, key)

    def keep_better(self, victim: Victim, state: Any, x: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        """The state after one more query, at `x` if that is better; and whether it is."""
        loss, adversarial = self.ask(victim, x, state.label, key)
        better = adversarial | (loss < state.loss)
        return state.replace(
            iteration=state.iteration + 1,
            x=jnp.where(better, x, state.x),
            loss=jnp.minimum(loss, state.loss),
            adversarial=adversarial,
        ), better
