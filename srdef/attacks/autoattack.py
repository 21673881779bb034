"""AutoAttack: an ensemble of attacks, each on the images that those before it have left.

Croce and Hein 2020 (arXiv:2003.01690); versions, order and parameters are those of fra31/auto-attack.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh

from srdef.attacks import masked_gradients
from srdef.attacks.apgd import apgd, apgd_t
from srdef.attacks.arguments import one_row_per_image, some_rows
from srdef.attacks.arithmetic import Arithmetic
from srdef.attacks.base import REGISTRY, Attack, AttackResult, without_early_stop
from srdef.attacks.batch import Storage, perturb
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.fab import fab, fab_t
from srdef.attacks.losses import classes_needed
from srdef.attacks.projections import Norm
from srdef.attacks.square import square
from srdef.attacks.stepping import fitting_batch, smaller_batch
from srdef.attacks.transfer import accuracy_over_draws
from srdef.batching import settled_batch_size
from srdef.errors import InputError, SrdefWarning, warn
from srdef.keys import check_key
from srdef.validation import (
    Scalar,
    check_choice,
    check_count,
    check_epsilon,
    check_ids,
    check_images,
    check_labels,
)
from srdef.victims import ExpectationOverTransformation, Victim, check_victim

Version = Literal["standard", "rand", "plus"]

# Keys of the last judgement and of the checks; small numbers are those of the attacks and of judging them.
_FINAL, _CHECKS = 1000, 1001


@struct.dataclass(kw_only=True)
class AutoAttackResult(AttackResult):
    """What `perturb` returns for AutoAttack: an `AttackResult`, and how it came about.

    Attributes
    ----------
    images : float32 array (N, height, width, 3)
        The worst image found for each; the given one where none was.
    success : bool array (N,)
        Whether less than half of the draws classify it correctly.
    linf, l2, l1, l0, steps
        As in `AttackResult`; steps are those of all attacks together.
    accuracy : float array (N,)
        The share of fresh draws with which the victim classifies it correctly; for a deterministic
        victim 0 or 1.
    clean_accuracy : float
        Of the given images.
    robust_accuracy : dict of str to float
        After each attack in turn: the mean over all images of the share for the worst image so far.
        For random victims these shares are the lowest of several noisy ones, so a little low.
    final_accuracy : float
        The mean of `accuracy`, which is judged anew for random victims: the figure to report.
    broken_by : list of (str or None)
        The attack that each image owes its worst image to.
    warnings : tuple of str
        Signs that these figures are too high (masked gradients), and what to do; empty if all is well.
    """

    accuracy: Any
    clean_accuracy: float = struct.field(pytree_node=False)
    robust_accuracy: dict[str, float] = struct.field(pytree_node=False)
    final_accuracy: float = struct.field(pytree_node=False)
    broken_by: list[str | None] = struct.field(pytree_node=False)
    warnings: tuple[str, ...] = struct.field(pytree_node=False)

    def __repr__(self) -> str:
        after = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in self.robust_accuracy.items())
        return (
            f"AutoAttackResult({len(self.images)} images: clean {self.clean_accuracy:.3f}, {after}, "
            f"final {self.final_accuracy:.3f}; {len(self.warnings)} warnings)"
        )


def ensemble(version: Version, epsilon: Scalar, norm: Norm = "linf") -> dict[str, Attack]:
    """The attacks of a version, in order.

    - "standard": APGD-CE, APGD-T and FAB-T with 9 targets, Square with 5000 queries; one run each.
      In L1 APGD runs 5 times, APGD-T has 5 targets, and both come from larger balls; Square has no
      L1 version here.
    - "plus": APGD-CE and APGD-DLR with 5 restarts, FAB with 5, Square (not in L1), APGD-T and FAB-T
      with 9 targets. (FAB takes a gradient for each class: with 1000 classes it is very slow.)
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
    search: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "start_radius": epsilon}
    if version == "rand":
        options = shared | {"stop_early": False}
        return {"apgd-ce": apgd(epsilon, **options), "apgd-dlr": apgd(epsilon, loss="dlr", **options)}
    black_box = {} if norm == "l1" else {"square": square(epsilon, norm=norm)}
    if version == "plus":
        attacks: dict[str, Attack] = {
            "apgd-ce": apgd(epsilon, restarts=5, **shared),
            "apgd-dlr": apgd(epsilon, restarts=5, loss="dlr", **shared),
            "fab": fab(restarts=5, **search),
            **black_box,
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
            **black_box,
        }
    return attacks


@struct.dataclass
class AutoAttack(Ensemble):
    """Attacks in order, each on the images that are still classified correctly; the worst image is kept.

    Every attack is judged on exactly the images it returns, by the victim itself; a perturbation
    longer than ε does not count. Version "rand" attacks `ExpectationOverTransformation(victim,
    draws, "loss")`, no attack stops at the first success, and the victim is judged over as many fresh
    draws. The other versions are for deterministic victims and refuse random ones, of which they would
    count lucky draws.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    members : tuple of Attack
    names : tuple of str
        Of the members.
    norm : "linf", "l2" or "l1"
    version : "standard", "rand" or "plus"
    draws : int
        Of version "rand".
    """

    epsilon: Scalar
    members: tuple[Attack, ...]
    names: tuple[str, ...] = struct.field(pytree_node=False)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    version: Version = struct.field(pytree_node=False, default="standard")
    draws: int = struct.field(pytree_node=False, default=20)

    def perturb(
        self,
        victim: Victim,
        images: np.ndarray | jax.Array,
        labels: np.ndarray | jax.Array | Literal["predicted"],
        *,
        key: jax.Array,
        ids: np.ndarray | None = None,
        batch_size: int | None = None,
        storage: Storage = "float32",
        mesh: Mesh | None = None,
        progress: Callable[[int], None] | None = None,
        arithmetic: Arithmetic | None = None,
    ) -> AutoAttackResult:
        """Attack every image; what `srdef.attacks.perturb` calls, with the same parameters.

        `progress` is called after each attack, with the number of images that are fooled.

        Raises
        ------
        InputError
            As `perturb`; for the DLR loss on fewer than 3 classes; for a random victim with another version
            than "rand".
        """
        key = check_key(key)
        images = check_images(images)
        count = len(images)
        if isinstance(labels, str):
            raise InputError("autoattack needs the labels; it cannot predict them")
        classes = check_victim(victim, images.shape[1:])
        labels = check_labels(labels, count, classes)
        ids = check_ids(ids, count)
        size = settled_batch_size(batch_size, count, images.shape[1:], mesh)
        rows_of = one_row_per_image(self, images)
        attacks = dict(zip(self.names, rows_of.members, strict=True))
        _check_classes(attacks, classes)
        random = masked_gradients.is_random(victim, images[:4], jax.random.fold_in(key, _CHECKS))
        found: list[str] = []
        seen: Victim = victim
        judged = 1
        if self.version == "rand":
            if not random:
                found.append('the victim is deterministic; version "standard" attacks it harder')
            judged = self.draws
            seen = ExpectationOverTransformation(victim, self.draws, "loss")
            attacks = {name: without_early_stop(attack) for name, attack in attacks.items()}
        elif random:
            raise InputError(
                f'the victim is random, so version {self.version!r} would count lucky draws; use "rand"'
            )

        def options(rows: np.ndarray) -> dict[str, Any]:
            return {"ids": ids[rows], "batch_size": smaller_batch(size, len(rows)), "mesh": mesh}

        def share(index: int, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
            fresh = jax.random.fold_in(key, index)
            return accuracy_over_draws(
                victim, images, labels[rows], key=fresh, draws=judged, **options(rows)
            ).astype(np.float64)

        everything = np.arange(count)
        radius = rows_of.epsilon
        worst = images.copy()
        accuracy = share(0, images, everything)
        clean = float(accuracy.mean())
        left = np.flatnonzero(accuracy > 0)
        if len(left):
            checks = jax.random.fold_in(key, _CHECKS)
            found += masked_gradients.warnings_before(
                seen, images[left], labels[left], key=checks, **options(left)
            )
        broken_by: list[str | None] = [None] * count
        steps = np.zeros(count, np.int32)
        nonfinite, zero_gradient = np.zeros(count, bool), np.zeros(count, bool)
        after = {}
        for number, (name, attack) in enumerate(attacks.items(), start=1):
            left = np.flatnonzero(accuracy > 0)
            if len(left):
                attack = some_rows(attack, left)
                fresh = jax.random.fold_in(key, 2 * number)
                with warnings.catch_warnings():
                    # Said once at the end, and not by every attack.
                    warnings.simplefilter("ignore", SrdefWarning)
                    result = perturb(
                        attack,
                        seen,
                        images[left],
                        labels[left],
                        key=fresh,
                        storage=storage,
                        arithmetic=arithmetic,
                        **options(left) | {"batch_size": fitting_batch(size, len(left))},
                    )
                distance = _distance(result.images - images[left], self.norm)
                inside = distance <= radius[left] * (1 + 1e-5) + 1e-6
                new = np.where(inside, share(2 * number + 1, result.images, left), 1.0)
                better = new < accuracy[left]
                for row in left[better]:
                    broken_by[row] = name
                worst[left[better]] = result.images[better]
                accuracy[left[better]] = new[better]
                steps[left] += result.steps
                nonfinite[left] |= result.nonfinite
                zero_gradient[left] |= result.zero_gradient
            after[name] = float(accuracy.mean())
            if progress is not None:
                progress(int((accuracy == 0).sum()))
        if judged > 1:
            accuracy = share(_FINAL, worst, everything)
        zero_gradient &= accuracy >= 0.5
        found += masked_gradients.warnings_on_the_way(nonfinite, zero_gradient)
        found += masked_gradients.warnings_after(attacks, after)
        if found:
            warn("autoattack: " + "; ".join(found))
        difference = worst - images
        return AutoAttackResult(
            images=worst,
            success=accuracy < 0.5,
            **{norm: _distance(difference, norm).astype(np.float32) for norm in ("linf", "l2", "l1")},
            l0=(difference != 0).sum(axis=(1, 2, 3), dtype=np.int32),
            steps=steps,
            success_rate=(1 - accuracy).astype(np.float32),
            nonfinite=nonfinite,
            zero_gradient=zero_gradient,
            accuracy=accuracy,
            clean_accuracy=clean,
            robust_accuracy=after,
            final_accuracy=float(accuracy.mean()),
            broken_by=broken_by,
            warnings=tuple(found),
            norm=self.norm,
        )


@REGISTRY.register("autoattack")
def autoattack(
    epsilon: Scalar = 8 / 255,
    norm: Norm = "linf",
    version: Version = "standard",
    *,
    attacks: Mapping[str, Attack] | None = None,
    draws: int = 20,
) -> AutoAttack:
    """AutoAttack, for `perturb`, which returns an `AutoAttackResult`.

    Parameters
    ----------
    epsilon : float, or array (N,)
        Radius of the ball, in units of the [0, 1] range.
    norm : "linf", "l2" or "l1"
    version : "standard", "rand" or "plus"
        See `ensemble`.
    attacks : mapping of str to Attack, optional
        Other attacks than those of the version, in order: fewer steps for a first look, say, or
        fewer attacks for a victim with too few classes. None of them is targeted. Give FAB the `epsilon`
        too.
    draws : int
        Of version "rand".

    Raises
    ------
    InputError
        As `ensemble`; for `attacks` that are none, or targeted.
    """
    check_count("draws", draws)
    members = ensemble(version, epsilon, norm)
    if attacks is not None:
        members = _own_members(attacks)
    return AutoAttack(epsilon, tuple(members.values()), tuple(members), norm, version, draws)


def _own_members(attacks: Any) -> dict[str, Attack]:
    """Attacks of one's own; InputError if they are none that AutoAttack can run."""
    if not isinstance(attacks, Mapping) or not attacks:
        raise InputError(
            'attacks must be a dictionary of at least one, like {"apgd": attacks.apgd(epsilon)}, not '
            f"{attacks!r:.80}"
        )
    for name, attack in attacks.items():
        if isinstance(attack, AutoAttack) or not isinstance(attack, Attack | Ensemble):
            raise InputError(
                f"attacks: {name!r} must be one attack like attacks.apgd(epsilon), not {attack!r:.80}"
            )
        if getattr(attack, "targeted", False):
            raise InputError(
                f"attacks: {name!r} is targeted, and AutoAttack has labels to leave and no classes to reach"
            )
    return dict(attacks)


def _check_classes(attacks: Mapping[str, Attack], classes: int) -> None:
    """InputError before anything is computed, not after the first attacks."""
    for name, attack in attacks.items():
        # With targets the loss falls back on another one.
        targets = getattr(attack, "targets", 0)
        needed = 2 if targets else classes_needed(getattr(attack, "loss", None), attack.targeted)
        if classes < needed:
            raise InputError(
                f"{name} needs at least {needed} classes, and the victim has {classes}; "
                "give `attacks` without it"
            )


def _distance(difference: np.ndarray, norm: Norm) -> np.ndarray:
    flat = difference.reshape(len(difference), -1).astype(np.float64)
    return np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
