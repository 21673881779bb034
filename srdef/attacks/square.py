"""Square: a random search over squares that only asks for logits.

Andriushchenko, Croce, Flammarion and Hein 2020, "Square attack: a query-efficient black-box
adversarial attack via random search" (arXiv:1912.00049), and the authors' code (max-andr/square-attack,
`attack.py`); schedule and start as AutoAttack has them (fra31/auto-attack, `square.py`).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks.base import REGISTRY, START, is_adversarial
from srdef.attacks.projections import Norm, length, project, safe_divide
from srdef.attacks.queries import QuerySearch, QueryState, passed
from srdef.validation import Scalar, check_choice, check_count, check_epsilon, check_shares
from srdef.victims import Victim, draws_per_call

# After so many queries the area of the squares is halved (section 5).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@struct.dataclass
class Square(QuerySearch):
    """Change a random square; keep the change if the margin of the label falls.

    In L∞ (algorithm 2 of the paper) the search starts from vertical stripes of ±ε, and a square of
    one random colour of ±2 ε is added and cut off at ±ε. In L2 (algorithm 3) it starts from a grid
    of tiles; each iteration moves, channel by channel, the norm of one window into another, in the
    shape of two humps of opposite sign, and what is left of ε too. (AutoAttack's port gives every
    channel the norm of all three, which finds less.) The side of the squares is
    sqrt(p height width), p halved as the search goes on.

    An image is finished when it is adversarial, unless `stop_early` is off.

    A random victim should be given as `ExpectationOverTransformation`: its losses are noisy, and a
    search that compares single draws keeps the luckiest one and stalls. The mean over its draws is
    compared then, and every draw counts as a query, so there are `queries // draws` iterations.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    p_init : float
        The first p.
    queries : int
        Most evaluations of the network after that of the start; for a victim without draws of its
        own the number of iterations.
    norm : "linf" or "l2"
    rescale : bool
        Whether the schedule of p, made for 10000 iterations, is compressed to those there are.
        AutoAttack does not.
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach; the loss is then the cross-entropy.
    """

    counts: ClassVar = ("queries",)
    epsilon: Scalar
    p_init: Scalar = 0.8
    queries: int = struct.field(pytree_node=False, default=5000)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    rescale: bool = struct.field(pytree_node=False, default=False)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> QueryState:
        clean_key, start_key, query_key = jax.random.split(jax.random.fold_in(key, 0), 3)
        if self.norm == "linf":
            stripes = jax.random.rademacher(start_key, (1, *image.shape[1:]), image.dtype)
            start = project(image, image + self.epsilon * stripes, self.epsilon, "linf").astype(image.dtype)
        else:
            start = jnp.clip(image + self.epsilon * _tiles(image.shape, start_key), 0, 1).astype(image.dtype)
        # What is misclassified already stays as it is.
        done = self.stop_early & is_adversarial(self, victim(image, clean_key), label)
        x = jnp.where(done, image, start)
        loss, found = self.ask(victim, x, label, query_key)
        draws = jnp.int32(draws_per_call(victim))
        return QueryState(image, label, key, jnp.int32(0), draws, x, loss, done | found)

    def start_at(self, victim: Victim, state: QueryState, start: jax.Array) -> QueryState:
        loss, found = self.ask(victim, start, state.label, jax.random.fold_in(state.key, START))
        # What is misclassified already stays as it is.
        done = state.adversarial & (state.x == state.image).all()
        return state.replace(x=jnp.where(done, state.x, start), loss=loss, adversarial=done | found)

    def step(self, victim: Victim, state: QueryState) -> QueryState:
        propose_key, query_key = jax.random.split(jax.random.fold_in(state.key, state.iteration + 1))
        propose = self._propose_linf if self.norm == "linf" else self._propose_l2
        x = propose(state, self._area(state.iteration, state.draws), propose_key)
        return self.keep_better(victim, state, x, query_key)[0]

    def _area(self, iteration: jax.Array, draws: int | jax.Array = 1) -> jax.Array:
        """p, the share of the image that a square covers."""
        queries = jnp.maximum(self.queries // draws, 1) if self.rescale else 10_000
        return jnp.asarray(self.p_init) / 2.0 ** passed(_HALVINGS, iteration, queries)

    def _propose_linf(self, state: QueryState, area: jax.Array, key: jax.Array) -> jax.Array:
        height, width, channels = state.image.shape
        place_key, colour_key = jax.random.split(key)
        side = jnp.round(jnp.sqrt(area * height * width)).astype(int)
        side = jnp.clip(side, 1, min(height, width))
        _, _, inside = _window(state.image.shape, side, place_key)
        colour = jax.random.rademacher(colour_key, (channels,), state.image.dtype)
        x = state.x + 2 * self.epsilon * jnp.where(inside, colour, 0)
        return project(state.image, x, self.epsilon, "linf").astype(state.image.dtype)

    def _propose_l2(self, state: QueryState, area: jax.Array, key: jax.Array) -> jax.Array:
        height, width, channels = state.image.shape
        to_key, from_key, shape_key, sign_key = jax.random.split(key, 4)
        # Odd sides, at least 3.
        side = jnp.round(jnp.sqrt(area * height * width)).astype(int)
        side = jnp.maximum(side, 3) // 2 * 2 + 1
        shorter = min(height, width)
        side = jnp.where(side > shorter, shorter - (1 - shorter % 2), side)
        rows, columns, to = _window(state.image.shape, side, to_key)
        _, _, source = _window(state.image.shape, side, from_key)

        def norm(array: jax.Array) -> jax.Array:
            """Of each channel."""
            return jnp.sqrt(jnp.sum(array**2, axis=(0, 1), keepdims=True))

        perturbation = state.x - state.image
        unused = jnp.maximum(self.epsilon**2 - jnp.sum(perturbation**2), 0) / channels
        available = jnp.sqrt(norm(jnp.where(to | source, perturbation, 0)) ** 2 + unused)
        humps = jnp.where(to, _humps(rows, columns, side, jax.random.bernoulli(shape_key)), 0)
        humps = safe_divide(humps, norm(humps))
        old = jnp.where(to, perturbation, 0)
        new = humps * jax.random.rademacher(sign_key, (1, 1, channels), state.image.dtype)
        new = new + safe_divide(old, norm(old))
        new = safe_divide(new, norm(new)) * available
        perturbation = jnp.where(to, new, jnp.where(source, 0, perturbation))
        perturbation = jnp.asarray(self.epsilon) * safe_divide(perturbation, length(perturbation, "l2"))
        return jnp.clip(state.image + perturbation, 0, 1).astype(state.image.dtype)


def _window(
    shape: tuple[int, ...], side: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A square at a random place: rows and columns counted from its corner, and what lies inside.

    Returns
    -------
    rows : array (height, 1, 1)
    columns : array (1, width, 1)
    inside : bool array (height, width, 1)
    """
    places = jnp.array(shape[:2]) - side + 1
    # Both in one call: on a CPU the loops of the generator cost more than their numbers.
    top, left = jax.vmap(lambda key, end: jax.random.randint(key, (), 0, end))(jax.random.split(key), places)
    rows, columns = (jnp.arange(shape[0]) - top)[:, None, None], (jnp.arange(shape[1]) - left)[None, :, None]
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return rows, columns, inside


def _humps(rows: jax.Array, columns: jax.Array, side: jax.Array, turned: jax.Array) -> jax.Array:
    """The η of the paper (figure 3): two humps of opposite sign, one above or beside the other.

    Each falls off in squares around its middle, where m squares away it is Σ_{k>m} 1/k² up to the
    number of squares that the hump holds.

    Parameters
    ----------
    rows, columns : arrays (height, 1, 1), (1, width, 1)
        From the corner of the window.
    side : array ()
        Of the window.
    turned : bool array
        Whether the humps stand beside each other.
    """
    rows, columns = jnp.where(turned, columns, rows), jnp.where(turned, rows, columns)
    first = side // 2
    longest = 1 + 2 * max(rows.shape[:2])
    sums = jnp.cumsum(jnp.append(0.0, 1 / jnp.arange(1.0, longest) ** 2))

    def hump(rows: jax.Array, length: jax.Array) -> jax.Array:
        squares = jnp.maximum(length, side) // 2 + 1
        away = jnp.maximum(jnp.abs(rows - length // 2), jnp.abs(columns - side // 2))
        value = jnp.maximum(sums[squares] - sums[jnp.clip(away, 0, len(sums) - 1)], 0)
        value = jnp.where((rows >= 0) & (rows < length) & (columns >= 0) & (columns < side), value, 0)
        return safe_divide(value, jnp.linalg.norm(value))

    return hump(rows, first) - hump(rows - first, side - first)


def _tiles(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """The start in L2: 5 by 5 tiles (on a square image) of random sign, with norm 1 in all."""
    height, width, channels = shape
    side = max(min(height, width) // 5, 1)
    start = (height - 5 * side) // 2 if height >= 5 else 0
    down, across = height // side, width // side
    sign_key, turn_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, (down, across, channels), jnp.float32)
    turned = jax.random.bernoulli(turn_key, 0.5, (down, across))
    inside = jnp.arange(side)
    tile = jnp.stack(
        [
            _humps(inside[:, None, None], inside[None, :, None], jnp.int32(side), jnp.bool_(turned))[..., 0]
            for turned in (False, True)
        ]
    )
    chosen = tile[turned.astype(int)]  # (down, across, side, side)
    grid = jnp.einsum("dayx,dac->dyaxc", chosen, signs).reshape(down * side, across * side, channels)
    place = np.zeros(shape, np.float32)
    rows, columns = min(down * side, height - start), min(across * side, width - start)
    result = jnp.asarray(place).at[start : start + rows, start : start + columns].set(grid[:rows, :columns])
    return safe_divide(result, jnp.linalg.norm(result.ravel()))


@REGISTRY.register("square")
def square(
    epsilon: Scalar = 8 / 255,
    *,
    queries: int = 5000,
    norm: Norm = "linf",
    p_init: Scalar = 0.8,
    rescale: bool = False,
    stop_early: bool = True,
    targeted: bool = False,
) -> Square:
    """Square as AutoAttack runs it: 5000 queries, p from 0.8."""
    check_count("queries", queries)
    check_choice("norm", norm, ("linf", "l2"))
    check_epsilon(epsilon, norm)
    check_shares(p_init=p_init)
    return Square(
        epsilon,
        p_init,
        queries=queries,
        norm=norm,
        rescale=rescale,
        stop_early=stop_early,
        targeted=targeted,
    )
