"""Transfer: attack one victim, judge on another."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from srdef.attacks.arithmetic import Arithmetic, judging_in
from srdef.attacks.base import Attack, AttackResult
from srdef.attacks.batch import Storage, perturb
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.judging import first_ids
from srdef.batching import map_batches
from srdef.errors import InputError, warn
from srdef.keys import check_key
from srdef.programs import jit
from srdef.validation import (
    ONE_IMAGE,
    check_count,
    check_ids,
    check_images,
    check_labels,
    check_not_traced,
)
from srdef.victims import Victim, check_victim

# The draws with which a random target is judged; none of them is one that the attack has seen.
_TARGET = 0xFFFFFFFD


@partial(jit, static_argnames="draws")
def correct_share(
    victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array, *, draws: int
) -> jax.Array:
    """For each image, the share of draws with which the victim predicts the label; NaN where one has none."""

    def one(image: jax.Array, label: jax.Array, i: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, i), draws)

        def draw(key: jax.Array) -> jax.Array:
            logits = victim(image, key)
            correct = (jnp.argmax(logits) == label).astype(jnp.float32)
            return jnp.where(jnp.isnan(logits).any(), jnp.nan, correct)

        # Without the loop for one draw: in it XLA's CPU back end is slower.
        return draw(keys[0]) if draws == 1 else jax.lax.map(draw, keys).mean()

    return jax.vmap(one)(images, labels, ids)


def _share_of_draws(
    victim: Victim,
    images: Any,
    labels: Any,
    key: Any,
    ids: Any,
    draws: int,
    batch_size: int | None,
    mesh: Any,
) -> np.ndarray:
    """The share of draws that classify each image as its label; NaN, with a warning, where logits are NaN."""
    check_not_traced("accuracy_over_draws", "victim(image, key)", victim, images, labels, key, ids)
    images = check_images(images)
    key = check_key(key)
    labels = check_labels(labels, len(images), check_victim(victim, images.shape[1:]))
    check_count("draws", draws)
    ids = check_ids(ids, len(images))
    program = partial(correct_share, draws=draws)
    share = map_batches(program, (victim, key), (images, labels, ids), batch_size=batch_size, mesh=mesh)
    is_nan = np.isnan(share)
    if is_nan.any():
        first = first_ids(ids[is_nan])
        warn(f"the victim's logits of {int(is_nan.sum())} of {len(ids)} images are NaN; ids {first}")
    return share


def accuracy_over_draws(
    victim: Victim,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    draws: int = 1,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """The share of a random victim's fresh draws that classify each image as its label.

    With one draw, or a deterministic victim, 0 or 1. An image for which the victim's logits are NaN counts as
    classified correctly, with a warning: that is no success of an attack.

    Parameters
    ----------
    images : float array (N, height, width, 3)
    labels : integer array (N,)
    key : jax.random.key
        Other than the key of the attack, so that the draws are fresh.
    ids, batch_size, mesh
        As given to `perturb`.
    draws : int

    Returns
    -------
    float array (N,)

    Raises
    ------
    InputError
        For images, labels, ids or draws of the wrong kind, shape or range; for a victim that returns
        no logits.
    """
    share = _share_of_draws(victim, images, labels, key, ids, draws, batch_size, mesh)
    return np.where(np.isnan(share), 1, share).astype(share.dtype)


def transfer(
    attack: Attack,
    source: Victim,
    target: Victim,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    storage: Storage = "float32",
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
    arithmetic: Arithmetic | None = None,
) -> AttackResult:
    """Attack the source victim and judge on the target: the attacker of whom the target is hidden.

    Parameters
    ----------
    attack : Attack
        Sees only `source`. What transfers best uses its whole budget (`mifgsm`, `mdi2fgsm`): an
        attack that stops as soon as the source is fooled leaves a point at the source's boundary.
    source, target : Victim
        With the same classes.
    images, labels, key, ids, batch_size, storage, mesh, progress, arithmetic
        As for `perturb`, but labels are given, not predicted.

    Returns
    -------
    AttackResult
        NumPy arrays; `success` is that on the target.

    Raises
    ------
    InputError
        As `perturb`, and if the victims differ in their number of classes.
    """
    check_not_traced("transfer", ONE_IMAGE, attack, source, target, images, labels, key, ids)
    images = check_images(images)
    of_source, of_target = (check_victim(victim, images.shape[1:]) for victim in (source, target))
    if of_source != of_target:
        raise InputError(
            f"source and target must have the same classes; they have {of_source} and {of_target}"
        )
    if isinstance(attack, Ensemble) and not hasattr(attack, "targeted"):
        raise InputError(
            f"transfer is for one attack; {type(attack).__name__} runs several and keeps what fools the "
            "source: give one of them"
        )
    if isinstance(labels, str):
        raise InputError("transfer needs the labels; source and target may predict different ones")
    result = perturb(
        attack,
        source,
        images,
        labels,
        key=key,
        ids=ids,
        batch_size=batch_size,
        storage=storage,
        mesh=mesh,
        progress=progress,
        arithmetic=arithmetic,
    )
    fresh = jax.random.fold_in(key, _TARGET)
    with judging_in(arithmetic):
        hit = _share_of_draws(target, result.images, labels, fresh, ids, 1, batch_size, mesh)
    # NaN is equal to neither: no success.
    success = hit == 1 if attack.targeted else hit == 0
    return dataclasses.replace(
        result,
        success=success,
        success_rate=success.astype(np.float32),
        nonfinite=result.nonfinite | np.isnan(hit),
    )
