"""Sparse-RS: a random search over a few pixels that only asks for logits.

Croce, Andriushchenko, Singh, Flammarion and Hein 2022, "Sparse-RS: a versatile framework for query-efficient
sparse black-box adversarial attacks" (arXiv:2006.12834), algorithm 2; parameters of their code
(fra31/sparse-rs, `rs_attacks.py`).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks import rounding
from srdef.attacks.base import REGISTRY, is_adversarial
from srdef.attacks.projections import AnyNorm
from srdef.attacks.queries import QuerySearch, QueryState, passed
from srdef.errors import InputError
from srdef.validation import Scalar, check_count, check_shares
from srdef.victims import Victim, draws_per_call

# After so many queries of 10000 the share of the pixels that are moved is divided by these (section 3 of the
# paper).
_QUERIES = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_DIVISORS = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)


class State(QueryState):
    """The loop's state of one image."""

    chosen: jax.Array  # bool (height * width,): the pixels that may differ from the image


@struct.dataclass
class SparseRS(QuerySearch):
    """Move the changed pixels to other places with new colours; keep the move if the loss falls.

    The start gives `pixels` random pixels random corners of the colour cube. Each iteration sets some of them
    back and as many others to random corners: a share α_i of the pixels, at least one, which falls from
    `alpha_init` as the search goes on. The loss is the lead of the label over the best other class; for a
    targeted attack the cross-entropy of the target.

    An image is finished when it is adversarial, unless `stop_early` is off. For random victims see `Square`.

    Parameters
    ----------
    alpha_init : float
        The first α.
    pixels : int
        How many pixels may differ from the image, in any of their channels: the radius in L0.
    queries : int
        Most evaluations of the network after that of the start.
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("queries",)
    alpha_init: Scalar = 0.3
    pixels: int = struct.field(pytree_node=False, default=50)
    queries: int = struct.field(pytree_node=False, default=5000)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: AnyNorm = struct.field(pytree_node=False, default="l0")

    # `pixels` is the budget.
    minimal_norm = False

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        clean_key, place_key, colour_key, query_key = jax.random.split(jax.random.fold_in(key, 0), 4)
        places = image.shape[0] * image.shape[1]
        if self.pixels > places:
            raise InputError(f"pixels must be at most {places}, all of the image's, not {self.pixels}")
        # What is misclassified already stays as it is.
        done = self.stop_early & is_adversarial(self, victim(image, clean_key), label)
        order = _random_order(jnp.ones(places, bool), self.pixels, place_key)
        colours = _colours((self.pixels, image.shape[2]), colour_key).astype(image.dtype)
        start = image.reshape(places, -1).at[order].set(colours).reshape(image.shape)
        x = jnp.where(done, image, start)
        loss, found = self.ask(victim, x, label, query_key)
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            draws=jnp.int32(draws_per_call(victim)),
            x=x,
            chosen=jnp.zeros(places, bool).at[order].set(True),
            loss=loss,
            adversarial=done | found,
        )

    def step(self, victim: Victim, state: State) -> State:
        iteration = state.iteration + 1
        out_key, in_key, colour_key, query_key = jax.random.split(jax.random.fold_in(state.key, iteration), 4)
        places, channels = len(state.chosen), state.image.shape[2]
        most = min(self.pixels, places - self.pixels)
        count = jnp.clip((self._share(iteration, state.draws) * self.pixels).astype(jnp.int32), 1, most)
        # Beyond the count an index past the end, which is dropped.
        moved = jnp.arange(most) < count
        leave = jnp.where(moved, _random_order(state.chosen, most, out_key), places)
        enter = jnp.where(moved, _random_order(~state.chosen, most, in_key), places)
        original, old = state.image.reshape(places, channels), state.x.reshape(places, channels)
        colours = _colours((most, channels), colour_key).astype(old.dtype)
        # A single pixel must not get the colour that it has.
        there = original[jnp.minimum(enter, places - 1)]
        same = (colours == there).all(axis=1, keepdims=True)
        colours = jnp.where(same & (count == 1), 1 - colours, colours)
        x = old.at[leave].set(original[jnp.minimum(leave, places - 1)], mode="drop")
        x = x.at[enter].set(colours, mode="drop").reshape(state.x.shape)
        chosen = state.chosen.at[leave].set(False, mode="drop").at[enter].set(True, mode="drop")

        after, better = self.keep_better(victim, state, x, query_key)
        return after.replace(chosen=jnp.where(better, chosen, state.chosen))

    def finished(self, state: State) -> jax.Array:
        # With every pixel changed there is none to move to.
        return super().finished(state) | (self.pixels >= len(state.chosen))

    def round(
        self, victim: Victim, image: jax.Array, adversarial: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Round to the nearest levels: values are 0, 1 or the image's own."""
        return rounding.from_levels(jnp.round(255 * adversarial))

    def _share(self, iteration: jax.Array, draws: jax.Array) -> jax.Array:
        """α_i, with the schedule compressed to the queries that there are."""
        behind = passed(_QUERIES, iteration * draws, self.queries)
        return jnp.asarray(self.alpha_init) / jnp.array(_DIVISORS)[behind]


def _random_order(among: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """`count` of the places that are true, in random order."""
    scores = jnp.where(among, jax.random.uniform(key, among.shape), -1)
    return jax.lax.top_k(scores, count)[1]


def _colours(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Random corners of the colour cube."""
    return jax.random.bernoulli(key, 0.5, shape).astype(jnp.float32)


@REGISTRY.register("sparse_rs")
def sparse_rs(
    *,
    pixels: int = 50,
    queries: int = 5000,
    alpha_init: Scalar = 0.3,
    stop_early: bool = True,
    targeted: bool = False,
) -> SparseRS:
    """Sparse-RS in L0, with 50 pixels and α from 0.3, as its authors have it on ImageNet; 5000 queries."""
    check_count("pixels", pixels)
    check_count("queries", queries)
    check_shares(alpha_init=alpha_init)
    return SparseRS(alpha_init, pixels, queries, stop_early, targeted)
