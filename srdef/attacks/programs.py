"""The programs that `perturb` runs on the devices, each compiled once for a kind of attack and a batch size.

Every leaf of `rows`, the attack, has one row per image, and `sharding` says how a batch lies on the devices.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from srdef.attacks.base import AttackResult, reaches_aim, within_range
from srdef.attacks.counts import AttackRows
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.states import same_types, strong_types
from srdef.batching import on_each_device
from srdef.programs import jit
from srdef.victims import Victim

# The draws with which a random victim is judged must be neither those that the attack has seen nor those
# with which a rounding was searched.
_JUDGE, _ROUND = 0xFFFFFFFF, 0xFFFFFFFE
# How far probabilities may be from the sum 1, as in AutoAttack's published code.
SUM_OF_PROBABILITIES = 1e-5


def _image_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def _keys_of(purpose: int, key: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.vmap(lambda k: jax.random.fold_in(k, purpose))(_image_keys(key, ids))


@partial(jit, static_argnames="sharding")
def init(
    rows: AttackRows,
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    start: jax.Array | None = None,
    *,
    sharding: Sharding,
) -> tuple[Any, jax.Array]:
    """The first state of every image, moved to its `start` if there is one, and which need no step."""

    def one(
        victim: Victim,
        rows: AttackRows,
        image: jax.Array,
        label: jax.Array,
        key: jax.Array,
        start: jax.Array | None,
    ) -> tuple[Any, jax.Array]:
        attack = rows.attack
        state = attack.init(victim, image, label, key)
        if start is not None:
            state = attack.start_at(victim, state, attack.into_ball(image, start))
        state = strong_types(state)
        return (state, jnp.int32(0)), attack.finished(state) | (attack.max_steps < 1)

    def states(victim: Victim, key: jax.Array, rows: AttackRows, *given: Any) -> tuple[Any, jax.Array]:
        images, labels, ids, start = given
        return jax.vmap(partial(one, victim))(rows, images, labels, _image_keys(key, ids), start)

    return on_each_device(states, sharding, (victim, key), (rows, images, labels, ids, start))


@partial(jit, static_argnames=("looped", "sharding"))
def steps(
    rows: AttackRows,
    victim: Victim,
    state: Any,
    needed: jax.Array,
    most: jax.Array,
    enough: jax.Array,
    *,
    looped: bool,
    sharding: Sharding,
) -> tuple[Any, jax.Array]:
    """Take steps with every image that is not finished; also return which images are finished then.

    Parameters
    ----------
    state : pytree
        The attack's own, and the number of steps taken.
    needed : bool array (N,)
        False for rows that fill the batch up.
    most : int array ()
        How many steps at most.
    enough : int array ()
        Come back earlier once no more than so many images need steps. (Each of several devices until none of
        its own does: they would have to ask each other after every step.)
    looped : bool
        Otherwise one step, whatever the other numbers are.
    """

    def one(victim: Victim, rows: AttackRows, counted: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        attack = rows.attack
        state, steps = counted
        finished = attack.finished(state) | (steps >= attack.max_steps)
        stepped = same_types(attack.step(victim, state), state), steps + 1
        counted = jax.tree.map(lambda old, new: jnp.where(finished, old, new), counted, stepped)
        return counted, attack.finished(counted[0]) | (counted[1] >= attack.max_steps)

    alone = len(sharding.device_set) == 1

    def on_each(
        victim: Victim, most: jax.Array, enough: jax.Array, rows: AttackRows, state: Any, needed: jax.Array
    ) -> tuple[Any, jax.Array]:
        def go_on(carry: tuple[jax.Array, Any, jax.Array]) -> jax.Array:
            taken, _, finished = carry
            return (taken < most) & ((needed & ~finished).sum() > (enough if alone else 0))

        def step(carry: tuple[jax.Array, Any, jax.Array]) -> tuple[jax.Array, Any, jax.Array]:
            taken, state, _ = carry
            return taken + 1, *jax.vmap(partial(one, victim))(rows, state)

        carry = jnp.int32(0), state, jnp.zeros(needed.shape, bool)
        return (jax.lax.while_loop(go_on, step, carry) if looped else step(carry))[1:]

    return on_each_device(on_each, sharding, (victim, most, enough), (rows, state, needed))


@jit
def result(rows: AttackRows, state: Any, images: jax.Array) -> tuple[jax.Array, Diagnostics]:
    """The adversarial images, finite and in [0, 1], and what the attack has noted on its way."""

    def one(rows: AttackRows, state: Any, image: jax.Array) -> tuple[jax.Array, Diagnostics]:
        adversarial, finite = within_range(rows.attack.result(state), image)
        diagnostics = getattr(state, "diagnostics", Diagnostics.create())
        return adversarial.astype(image.dtype), diagnostics.replace(nonfinite=diagnostics.nonfinite | ~finite)

    return jax.vmap(one)(rows, state, images)


@partial(jit, static_argnames="sharding")
def take(tree: Any, rows: jax.Array, *, sharding: Sharding) -> Any:
    """The given rows of every array."""
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda array: array[rows], tree), sharding)


@jit
def put(tree: Any, rows: jax.Array, part: Any) -> Any:
    """`tree` with the given rows replaced; rows beyond its end are dropped."""
    return jax.tree.map(lambda array, new: array.at[rows].set(new, mode="drop"), tree, part)


@jit
def rounded(
    rows: AttackRows,
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    adversarial: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
) -> jax.Array:
    """The adversarial images in multiples of 1/255, as the attack rounds them."""
    return jax.vmap(lambda rows, *image: rows.attack.round(victim, *image))(
        rows, images, adversarial, labels, _keys_of(_ROUND, key, ids)
    )


def are_probabilities(logits: jax.Array) -> jax.Array:
    """Whether logits `(..., classes)` lie in [0, 1] and have the sum 1, but for rounding."""
    in_range = (logits >= -SUM_OF_PROBABILITIES) & (logits <= 1 + SUM_OF_PROBABILITIES)
    return in_range.all(axis=-1) & (jnp.abs(logits.sum(axis=-1) - 1) <= SUM_OF_PROBABILITIES)


@partial(jit, static_argnames=("targeted", "draws"))
def judged(
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    adversarial: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    targeted: bool,
    draws: int,
) -> AttackResult:
    """Success and distances of adversarial images, without these images and the attack's norm.

    A program of its own: inside another a compiler may compute the images once more, rounded
    otherwise, and judge something else than what is returned. It does not know the attack, so that all
    attacks of a victim share it.
    """

    def one(image: jax.Array, adversarial: jax.Array, label: jax.Array, key: jax.Array) -> AttackResult:
        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            logits = victim(adversarial, key)
            return reaches_aim(targeted, logits, label), jnp.isnan(logits).any(), are_probabilities(logits)

        if draws == 1:  # without the loop, in which XLA's CPU back end is slower
            fools, is_nan, in_simplex = draw(key)
        else:
            fools, is_nan, in_simplex = jax.lax.map(draw, jax.random.split(key, draws))
        rate = fools.astype(jnp.float32).mean()
        difference = adversarial - image
        return AttackResult(
            images=None,
            success=rate > 0.5,
            linf=jnp.abs(difference).max(),
            l2=jnp.linalg.norm(difference.ravel()),
            l1=jnp.abs(difference).sum(),
            l0=(difference != 0).sum().astype(jnp.int32),
            steps=jnp.int32(0),
            success_rate=rate,
            nonfinite=is_nan.any(),
            zero_gradient=jnp.bool_(False),
            probabilities=in_simplex.all(),
            norm="linf",
        )

    return jax.vmap(one)(images, adversarial, labels, _keys_of(_JUDGE, key, ids))


@jit
def is_nan(victim: Victim, key: jax.Array, images: jax.Array, ids: jax.Array) -> jax.Array:
    """Whether the victim's logits of each image `(N,)` are NaN."""
    return jnp.isnan(jax.vmap(victim)(images, _keys_of(_JUDGE, key, ids))).any(axis=-1)


@jit
def predict(victim: Victim, key: jax.Array, images: jax.Array, ids: jax.Array) -> jax.Array:
    """The victim's predictions `(N,)`."""
    logits = jax.vmap(victim)(images, _keys_of(_JUDGE, key, ids))
    return jnp.argmax(logits, axis=-1)
