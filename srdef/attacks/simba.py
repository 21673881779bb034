"""SimBA: one step along one direction after the other, kept where the victim becomes less sure.

Guo, Gardner, You, Wilson and Weinberger 2019, "Simple black-box adversarial attacks" (arXiv:1905.07121),
algorithm 1, and the authors' code (cg563/simple-blackbox-attack): order of the frequencies, step and budget.
"""

import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks.base import REGISTRY, START
from srdef.attacks.losses import loss_to_climb
from srdef.attacks.projections import Norm
from srdef.attacks.queries import QuerySearch, QueryState
from srdef.errors import InputError
from srdef.validation import Scalar, check_choice, check_count, check_positive, check_shares, is_traced
from srdef.victims import Victim, draws_per_call

Basis = Literal["pixel", "dct"]


class State(QueryState):
    """The loop's state of one image."""

    order: jax.Array  # int32 (height * width * channels,): the directions as they are tried
    tried: jax.Array  # how many of them are done
    backwards: jax.Array  # whether the next query is for the step against the direction


@struct.dataclass
class SimBA(QuerySearch):
    """Step along orthonormal directions, each tried once; keep a step if the label's probability falls.

    A direction is first tried with +`step_size`, then, if that does not lower the probability, with
    -`step_size`: one query or two. Each step of the attack is one query. With n steps kept the perturbation
    has an L2 norm of at most `step_size` sqrt(n); no ball bounds it otherwise. An image is finished when it
    is adversarial, unless `stop_early` is off, or when there is no direction left.

    Probabilities are compared by their cross-entropy, which has the same order and still tells two of them
    apart where both round to 1. For random victims see `Square`.

    Parameters
    ----------
    step_size : float
        ε of the paper, in units of the [0, 1] range.
    lowest : float
        In the DCT basis: the share of the frequencies, along each side of the image, from which directions
        are taken first. When they are exhausted, higher ones follow, a quarter of this share at a time.
    basis : "pixel" or "dct"
        Whether a direction is one value of the image, or one frequency of the cosine transform of one of its
        channels (SimBA-DCT). In both their order is random.
    queries : int
        Most evaluations of the network after that of the start.
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach, whose probability shall rise.
    """

    counts: ClassVar = ("queries",)
    step_size: Scalar = 0.2
    lowest: Scalar = 1 / 8
    basis: Basis = struct.field(pytree_node=False, default="pixel")
    queries: int = struct.field(pytree_node=False, default=20_000)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: Norm = struct.field(pytree_node=False, default="l2")

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        order_key, query_key = jax.random.split(jax.random.fold_in(key, 0))
        loss, adversarial = self.ask(victim, image, label, query_key)
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            draws=jnp.int32(draws_per_call(victim)),
            x=image,
            loss=loss,
            adversarial=adversarial,
            order=self._order(image.shape, order_key),
            tried=jnp.int32(0),
            backwards=jnp.bool_(False),
        )

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        loss, adversarial = self.ask(victim, start, state.label, jax.random.fold_in(state.key, START))
        # What is misclassified already stays as it is.
        x = jnp.where(state.adversarial, state.x, start)
        return state.replace(x=x, loss=loss, adversarial=state.adversarial | adversarial)

    def step(self, victim: Victim, state: State) -> State:
        iteration = state.iteration + 1
        direction = self._direction(state.order[state.tried], state.image.shape)
        size = jnp.where(state.backwards, -1, 1) * jnp.asarray(self.step_size)
        x = jnp.clip(state.x + size * direction, 0, 1).astype(state.image.dtype)
        loss, adversarial = self.ask(victim, x, state.label, jax.random.fold_in(state.key, iteration))
        better = loss < state.loss
        return state.replace(
            iteration=iteration,
            x=jnp.where(better, x, state.x),
            loss=jnp.where(better, loss, state.loss),
            adversarial=better & adversarial,
            tried=state.tried + (better | state.backwards),
            backwards=~(better | state.backwards),
        )

    def finished(self, state: State) -> jax.Array:
        return super().finished(state) | (state.tried >= len(state.order))

    def loss_at(
        self, victim: Victim, x: jax.Array, label: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What falls and rises with the probability, or for a targeted attack against it; and the logits."""
        value, logits = loss_to_climb(victim, x, label, key, targeted=self.targeted)
        return -value, logits

    def _order(self, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
        """The places of all directions in an array of this shape, in random order; low frequencies first."""
        rank = jax.random.uniform(key, shape)
        if self.basis == "dct":
            height, width, _ = shape
            rows, columns = (np.arange(1, side + 1, dtype=np.float32) / side for side in (height, width))
            reach = np.maximum(rows[:, None, None], columns[None, :, None])
            # A frequency that ends a block belongs to it, also when it is off by rounding.
            block = jnp.ceil(4 * jnp.maximum(reach / jnp.asarray(self.lowest) - 1, 0) - 1e-4)
            rank = rank + jnp.maximum(block, 0)
        return jnp.argsort(rank.ravel()).astype(jnp.int32)

    def _direction(self, place: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The unit vector of the basis at a place, as an array of this shape."""
        if self.basis == "pixel":
            return (jnp.arange(math.prod(shape)) == place).reshape(shape).astype(jnp.float32)
        row, column, channel = jnp.unravel_index(place, shape)
        height, width, channels = shape
        of_channel = (jnp.arange(channels) == channel).astype(jnp.float32)
        wave = _cosine(height, row)[:, None, None] * _cosine(width, column)[None, :, None]
        return wave * of_channel[None, None]


def _cosine(side: int, frequency: jax.Array) -> jax.Array:
    """The orthonormal cosine of the DCT-II with this frequency, an array `(side,)`."""
    # Whole numbers keep float32 exact where many periods have passed.
    phase = (2 * jnp.arange(side) + 1) * frequency % (4 * side)
    scale = jnp.sqrt(jnp.where(frequency == 0, 1, 2) / side)
    return scale * jnp.cos(math.pi / (2 * side) * phase)


@REGISTRY.register("simba")
def simba(
    step_size: Scalar = 0.2,
    *,
    basis: Basis = "pixel",
    queries: int = 20_000,
    lowest: Scalar = 1 / 8,
    stop_early: bool = True,
    targeted: bool = False,
) -> SimBA:
    """SimBA with its authors' steps of 0.2 and 10,000 directions, each of which takes up to two queries.

    The eighth of the frequencies with which the DCT basis begins is that of the authors on ImageNet, 28 of
    224. Their targeted attacks have three times as many directions.
    """
    check_choice("basis", basis, ("pixel", "dct"))
    check_count("queries", queries)
    check_positive(step_size=step_size)
    check_shares(lowest=lowest)
    if not is_traced(lowest) and not np.all(np.asarray(lowest) > 0):
        raise InputError(f"lowest must be above 0, the share of the frequencies to begin with, not {lowest}")
    return SimBA(step_size, lowest, basis, queries, stop_early, targeted)
