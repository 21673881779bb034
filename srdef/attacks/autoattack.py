"""AutoAttack: an ensemble of attacks, each on the images that those before it have left.

Croce and Hein 2020 (arXiv:2003.01690); versions, order and parameters are those of fra31/auto-attack.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from srdef.attacks.apgd import apgd, apgd_t
from srdef.attacks.base import Attack, without_early_stop
from srdef.attacks.batch import Storage, perturb, smaller_batch
from srdef.attacks.fab import fab, fab_t
from srdef.attacks.projections import Norm
from srdef.attacks.square import square
from srdef.attacks.transfer import accuracy_over_draws
from srdef.errors import InputError
from srdef.validation import (
    Scalar,
    check_choice,
    check_count,
    check_epsilon,
    check_ids,
    check_images,
    check_key,
    check_labels,
)
from srdef.victims import ExpectationOverTransformation, Victim

Version = Literal["standard", "rand", "plus"]

# Keys of an attack, of judging it, and of the last judgement.
_FINAL = 1000


@dataclass(frozen=True)
class AutoAttackResult:
    """What `autoattack` returns.

    Attributes
    ----------
    images : float32 array (N, height, width, 3)
        The worst image found for each; the given one where none was.
    accuracy : float array (N,)
        The share of fresh draws with which the victim classifies it right; for a deterministic
        victim 0 or 1.
    clean_accuracy : float
        Of the given images.
    robust_accuracy : dict
        After each attack in turn: the mean over all images of the share for the worst image so far.
        For random victims these shares are the lowest of several noisy ones, so a little low.
    final_accuracy : float
        The mean of `accuracy`, which is judged anew for random victims: the figure to report.
    broken_by : list of (str or None)
        The attack that each image owes its worst image to.
    """

    images: np.ndarray
    accuracy: np.ndarray
    clean_accuracy: float
    robust_accuracy: dict[str, float]
    final_accuracy: float
    broken_by: list[str | None]


def ensemble(version: Version, epsilon: Scalar, norm: Norm = "linf") -> dict[str, Attack]:
    """The attacks of a version, in order.

    - "standard": APGD-CE, APGD-T and FAB-T with 9 targets, Square with 5000 queries; one run each.
      In L1 APGD runs 5 times, APGD-T has 5 targets, and both come from larger balls; Square has no
      L1 version here.
    - "plus": APGD-CE and APGD-DLR with 5 restarts, FAB with 5, Square, APGD-T and FAB-T with 9
      targets. (FAB takes a gradient for each class: with 1000 classes it is very slow.)
    - "rand": APGD-CE and APGD-DLR, to be run on the expectation over 20 draws.

    Raises
    ------
    InputError
        For an unknown version or norm, or a bad ε.
    """
    check_choice("version", version, get_args(Version))
    check_choice("norm", norm, get_args(Norm))
    check_epsilon(epsilon, norm)
    shared: dict[str, Any] = {"norm": norm}
    search: dict[str, Any] = {"norm": norm, "enough": epsilon, "start_radius": epsilon}
    if version == "rand":
        options = shared | {"stop_early": False}
        return {"apgd-ce": apgd(epsilon, **options), "apgd-dlr": apgd(epsilon, loss="dlr", **options)}
    if version == "plus":
        attacks: dict[str, Attack] = {
            "apgd-ce": apgd(epsilon, restarts=5, **shared),
            "apgd-dlr": apgd(epsilon, restarts=5, loss="dlr", **shared),
            "fab": fab(restarts=5, **search),
            "square": square(epsilon, norm="l2" if norm == "l2" else "linf"),
            "apgd-t": apgd_t(epsilon, **shared),
            "fab-t": fab_t(**search),
        }
    elif norm == "l1":
        attacks = {
            "apgd-ce": apgd(epsilon, restarts=5, shrinking=True, **shared),
            "apgd-t": apgd_t(epsilon, targets=5, shrinking=True, **shared),
            "fab-t": fab_t(**search),
        }
    else:
        attacks = {
            "apgd-ce": apgd(epsilon, **shared),
            "apgd-t": apgd_t(epsilon, **shared),
            "fab-t": fab_t(**search),
            "square": square(epsilon, **shared),
        }
    if norm == "l1":
        attacks.pop("square", None)
    return attacks


def autoattack(
    victim: Victim,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    epsilon: Scalar,
    norm: Norm = "linf",
    version: Version = "standard",
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    storage: Storage = "float32",
    attacks: Mapping[str, Attack] | None = None,
    draws: int = 20,
    mesh: Mesh | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> AutoAttackResult:
    """Run AutoAttack: each attack on the images that are still classified right, worst case kept.

    Every attack is judged on exactly the images it returns, by the victim itself; a perturbation
    longer than ε does not count. Version "rand" attacks `ExpectationOverTransformation(victim,
    draws, "loss")`, no attack stops at the first success, and the victim is judged over as many fresh
    draws. The other versions are for deterministic victims and refuse random ones, of which they would
    count lucky draws.

    Parameters
    ----------
    victim : Victim
    images : float array (N, height, width, 3)
        In [0, 1].
    labels : integer array (N,)
    epsilon : float, or array (N,)
        Radius of the ball, in units of the [0, 1] range.
    norm : "linf", "l2" or "l1"
    version : "standard", "rand" or "plus"
    key, ids, batch_size, storage, mesh
        As for `perturb`.
    attacks : mapping of str to Attack, optional
        Other attacks than those of the version, in order: fewer steps for a first look, say, or
        fewer attacks for a victim with too few classes. FAB counts with `enough=epsilon`.
    draws : int
        Of version "rand".
    progress : callable, optional
        Called after each attack with its name and the robust accuracy then.

    Returns
    -------
    AutoAttackResult

    Raises
    ------
    InputError
        As `perturb` and `ensemble`; for the DLR loss on fewer than 3 classes, targeted 4; for a random
        victim with another version than "rand".
    """
    check_key(key)
    check_count("draws", draws)
    standard = ensemble(version, epsilon, norm)
    attacks = standard if attacks is None else attacks
    images = check_images(images)
    count = len(images)
    labels = check_labels(labels, count, victim.num_classes)
    ids = check_ids(ids, count)
    radius = np.broadcast_to(np.asarray(epsilon, np.float32), (count,))
    _check_classes(attacks, victim.num_classes)
    seen: Victim = victim
    if version == "rand":
        seen = ExpectationOverTransformation(victim, draws, "loss")
        attacks = {name: without_early_stop(attack) for name, attack in attacks.items()}
    elif is_random(victim, images[:4], key):
        raise InputError(f'the victim is random, so version {version!r} would count lucky draws; use "rand"')
    judged = draws if version == "rand" else 1

    def share(index: int, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        options: dict[str, Any] = {"batch_size": smaller_batch(batch_size or count, len(rows)), "mesh": mesh}
        return accuracy_over_draws(
            victim,
            images,
            labels[rows],
            key=jax.random.fold_in(key, index),
            ids=ids[rows],
            draws=judged,
            **options,
        )

    everything = np.arange(count)
    worst = images.copy()
    accuracy = share(0, images, everything).astype(np.float64)
    clean = float(accuracy.mean())
    broken_by: list[str | None] = [None] * count
    after = {}
    for number, (name, attack) in enumerate(attacks.items(), start=1):
        left = np.flatnonzero(accuracy > 0)
        if len(left):
            attack = jax.tree.map(lambda leaf, left=left: leaf if np.ndim(leaf) == 0 else leaf[left], attack)
            result = perturb(
                attack,
                seen,
                images[left],
                labels[left],
                key=jax.random.fold_in(key, 2 * number),
                ids=ids[left],
                batch_size=smaller_batch(batch_size or count, len(left)),
                storage=storage,
                mesh=mesh,
            )
            inside = _distance(result.images - images[left], norm) <= radius[left] * (1 + 1e-5) + 1e-6
            new = np.where(inside, share(2 * number + 1, result.images, left), 1.0)
            better = new < accuracy[left]
            for row in left[better]:
                broken_by[row] = name
            worst[left[better]] = result.images[better]
            accuracy[left[better]] = new[better]
        after[name] = float(accuracy.mean())
        if progress is not None:
            progress(name, after[name])
    if judged > 1:
        accuracy = share(_FINAL, worst, everything).astype(np.float64)
    return AutoAttackResult(worst, accuracy, clean, after, float(accuracy.mean()), broken_by)


@jax.jit
def _logits(victim: Victim, images: jax.Array, key: jax.Array) -> jax.Array:
    return jax.vmap(victim, (0, None))(images, key)


def is_random(victim: Victim, images: np.ndarray, key: jax.Array) -> bool:
    """Whether the logits of images `(N, height, width, 3)` depend on the key: two keys are compared."""
    first, second = (_logits(victim, images, jax.random.fold_in(key, purpose)) for purpose in (0, 1))
    return bool((first != second).any())


def _check_classes(attacks: Mapping[str, Attack], classes: int) -> None:
    """InputError before anything is computed, not after the first attacks."""
    for name, attack in attacks.items():
        needed = {"dlr": 3, "dlr_targeted": 4}.get(getattr(attack, "loss", ""), 2)
        if classes < needed:
            raise InputError(
                f"{name} needs at least {needed} classes, and the victim has {classes}; "
                "give `attacks` without it"
            )


def _distance(difference: np.ndarray, norm: Norm) -> np.ndarray:
    flat = difference.reshape(len(difference), -1).astype(np.float64)
    return np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
