"""One call: how robust is a model, under which attacks, at which ε.

`evaluate_robustness` runs attacks at several radii and counts as RobustBench does, over all images: one
that the model misclassifies when it is clean is not robust at any ε.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from srdef import models, victims
from srdef.attacks.arguments import one_row_per_image, some_rows
from srdef.attacks.arithmetic import Arithmetic, check_arithmetic, judging_in
from srdef.attacks.base import REGISTRY, Attack, create, without_early_stop
from srdef.attacks.batch import perturb
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.projections import Norm
from srdef.attacks.stepping import smaller_batch
from srdef.attacks.targets import TargetName
from srdef.attacks.trace import has_trace
from srdef.attacks.transfer import accuracy_over_draws
from srdef.attacks.transfer_family import create_for
from srdef.batching import settled_batch_size
from srdef.defenses import Defense
from srdef.defenses.base import check_defense
from srdef.errors import InputError
from srdef.keys import check_key
from srdef.reporting.robust_accuracy import RobustAccuracy, Traced
from srdef.validation import (
    ONE_IMAGE,
    check_choice,
    check_count,
    check_epsilon,
    check_flags,
    check_ids,
    check_images,
    check_labels,
    check_not_traced,
)
from srdef.victims import Victim

# Apart from the keys of the attacks.
_JUDGE = 0x7FFFFFFF
Threat = Literal["white_box", "gray_box"]
AttackLike = str | Mapping[str, Any] | Attack | Ensemble | Callable[[float], Attack | Ensemble]


def evaluate_robustness(
    model: Any,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    attacks: Sequence[AttackLike] | AttackLike = ("apgd", "autoattack"),
    epsilons: Sequence[float] = (8 / 255,),
    norm: Norm = "linf",
    *,
    key: jax.Array,
    defense: Defense | None = None,
    threat: Threat = "white_box",
    draws: int = 20,
    targets: TargetName | None = None,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    arithmetic: Arithmetic | None = None,
    trace: bool = False,
    progress: Callable[[str, float, float], None] | None = None,
    on_batch: Callable[[str, float, int, int], None] | None = None,
) -> RobustAccuracy:
    """Measure the accuracy of a model under attacks, at several radii.

    Parameters
    ----------
    model
        A classifier of srdef, or a model of another framework (see `srdef.models.wrap`).
    images : float array (N, height, width, channels)
        In [0, 1].
    labels : integer array (N,)
    attacks : sequence
        Registered names, or `MODULE:FUNCTION` of your own; dictionaries `{"name": "pgd", "steps": 40}`;
        functions from ε to an attack; or attacks. One that does not depend on `epsilons`, as a minimal-norm
        attack, runs once and counts at every ε that its perturbation does not exceed. One with an ε of its
        own tells nothing of another, and is refused there.
    epsilons : sequence of float
        Rising radii, in units of the [0, 1] range: `8 / 255`.
    norm : "linf", "l2" or "l1"
    key : jax.random.key
    defense : Defense, optional
        Stands before the model.
    threat : "white_box" or "gray_box"
        Whether the attacker knows the defense: differentiates through it, or replaces its gradient by the
        identity's where it has none (BPDA), and averages over its draws (EOT) where it is random; or attacks
        the model alone.
    draws : int
        For random defenses: how many draws an attacker averages, and how many fresh ones judge an image,
        which counts as classified correctly if more than half of them are.
    targets : "least_likely", "random" or "second", optional
        Attacks aim at this class of each image (see `srdef.attacks.targets`); those given by name are made
        targeted. The accuracy is that of the labels as ever.
    ids, batch_size, arithmetic
        As for `attacks.perturb`. With an arithmetic, all accuracies are computed in float32.
    trace : bool
        Whether the result has the `traces` of the attacks, which take one prediction more for each step.
    progress : callable, optional
        Called after each attack and ε with the attack's name, ε and the accuracy.
    on_batch : callable, optional
        Called while an attack works with its name, ε, the number of images that it has finished (of
        AutoAttack: fooled) and the number that it attacks.

    Returns
    -------
    RobustAccuracy

    Raises
    ------
    InputError
        For bad images, labels, names or radii; for an attack in another norm, or with another ε; for
        "autoattack" on a random defense (give `{"name": "autoattack", "version": "rand"}`); for the trace of
        an attack that has none.

    Warns
    -----
    SrdefWarning
        As `attacks.perturb`, if the model returns probabilities for instance.
    """
    check_not_traced("evaluate_robustness", ONE_IMAGE, model, images, labels, key, defense, ids)
    key = check_key(key)
    check_choice("norm", norm, ("linf", "l2", "l1"))
    check_choice("threat", threat, ("white_box", "gray_box"))
    check_count("draws", draws)
    check_flags(trace=trace)
    check_arithmetic(arithmetic)
    several = isinstance(epsilons, Iterable) and getattr(epsilons, "ndim", 1) > 0
    given: list[Any] = list(epsilons) if several else [epsilons]
    for epsilon in given:
        check_epsilon(epsilon, norm)
    radii = tuple(map(float, given))
    if not radii or list(radii) != sorted(set(radii)):
        raise InputError(f"epsilons must rise, not {list(radii)}")
    if defense is not None:
        check_defense(defense)
    images = check_images(images)
    ids = check_ids(ids, len(images))
    random = defense is not None and defense.random
    judge, seen = _victims(models.wrap(model), defense, threat, draws)
    labels = check_labels(labels, len(images), victims.check_victim(judge, images.shape[1:]))
    makers = _makers(attacks, norm, targets, images)
    for name, maker in makers.items():
        made = maker.make(radii[-1])
        _check_attack(name, made, norm, radii[-1], targets)
        if not maker.depends:
            _check_own_epsilon(name, made, radii)
        if trace and not has_trace(made):
            raise InputError(f"attack {name!r} has no trace, as it runs several: name these instead of it")
    fresh = draws if random else 1
    size = settled_batch_size(batch_size, len(images), images.shape[1:])
    case = _Case(judge, seen, images, labels, ids, key, norm, fresh, size, targets, arithmetic, trace)

    clean = case.correct(images, np.arange(len(images)), 0)
    correct, seconds = {}, {}
    traces: dict[tuple[str, float | None], Traced] = {}
    for number, (name, maker) in enumerate(makers.items()):
        rows: list[np.ndarray] = []
        spent: list[float] = []
        broken_at: np.ndarray | None = None
        for index, epsilon in enumerate(radii):
            started = time.monotonic()
            # A smaller ball lies within a larger one: what is broken stays broken.
            left = rows[-1] if rows else clean
            if broken_at is None or maker.depends:
                watch = partial(on_batch, name, epsilon) if on_batch else None
                purpose = 1 + number * len(radii) + index
                attack = maker.make(epsilon if maker.depends else radii[-1])
                broken_at, traced = case.broken_at(attack, left, purpose, watch)
                if traced is not None:
                    traces[name, epsilon if maker.depends else None] = traced
            # Rounding must not separate a perturbation of length ε from ε.
            rows.append(left & ~(broken_at <= epsilon * (1 + 1e-5) + 1e-6))
            spent.append(time.monotonic() - started)
            if progress is not None:
                progress(name, epsilon, float(rows[-1].mean()))
        correct[name], seconds[name] = np.stack(rows), tuple(spent)
    return RobustAccuracy(clean, correct, seconds, radii, norm, arithmetic, traces)


def _victims(classifier: Any, defense: Defense | None, threat: Threat, draws: int) -> tuple[Victim, Victim]:
    """Whose accuracy is measured, and what the attacker differentiates."""
    plain = victims.Undefended(classifier)
    if defense is None:
        return plain, plain
    gradient: victims.Gradient = "exact" if defense.differentiable else "identity"
    judge = victims.Defended(classifier, defense, gradient)
    if threat == "gray_box":
        return judge, plain
    return judge, victims.ExpectationOverTransformation(judge, draws) if defense.random else judge


class _Maker(NamedTuple):
    """A function from ε to an attack, and whether the attack depends on ε."""

    make: Callable[[float], Any]
    depends: bool


def _is_attack(entry: Any) -> bool:
    return isinstance(entry, Ensemble) or (hasattr(entry, "init") and hasattr(entry, "step"))


def _makers(
    attacks: Sequence[AttackLike] | AttackLike, norm: Norm, targets: TargetName | None, images: np.ndarray
) -> dict[str, _Maker]:
    """For each attack its name and how it is made."""
    single = isinstance(attacks, str | Mapping) or callable(attacks) or _is_attack(attacks)
    if not single and not isinstance(attacks, Iterable):
        raise InputError(f"attacks must be a name, an attack, or a list of them, not {attacks!r:.80}")
    entries: Any = [attacks] if single else attacks
    makers: dict[str, _Maker] = {}
    words: list[str] = []
    for entry in entries:
        name, maker = _maker(entry, norm, targets, images)
        if isinstance(entry, str):
            same = [other for other in words if REGISTRY.resolve(other) == REGISTRY.resolve(entry)]
            if same:
                raise InputError(f"attacks: {same[0]!r} and {entry!r} are the same attack; name it once")
            words.append(entry)
        if name in makers:
            name = f"{name} ({len(makers) + 1})"
        makers[name] = maker
    if not makers:
        raise InputError("attacks must name at least one attack")
    return makers


def _maker(entry: Any, norm: Norm, targets: TargetName | None, images: np.ndarray) -> tuple[str, _Maker]:
    if isinstance(entry, str | Mapping):
        options: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
        if not isinstance(options.get("name"), str):
            raise InputError(
                'an attack as a dictionary has its name in it, as {"name": "pgd", "steps": 40}, not '
                f"{entry!r:.80}"
            )
        name, given = REGISTRY.resolve(options.pop("name"))
        options = given | options
        known = inspect.signature(REGISTRY.builder(name)).parameters
        if name == "minimal_epsilon":  # searches up to the largest ε, in the attack that it is given
            inner = options.pop("attack", known["attack"].default)
            if _is_attack(inner):
                return name, _Maker(lambda _: create(name, attack=inner, **options), False)
            inner_name, maker = _maker(inner, norm, targets, images)
            return f"{name} of {inner_name}", _Maker(
                lambda epsilon: create(name, attack=maker.make(epsilon), **options), False
            )
        own = known
        title = name
        if name == "repeat" and isinstance(options.get("attack"), str):
            inner_name, _ = REGISTRY.resolve(options["attack"])
            title = f"repeat of {inner_name}"
            own = inspect.signature(REGISTRY.builder(inner_name)).parameters
        if "norm" in own:
            options.setdefault("norm", norm)
        if targets is not None:
            if "targeted" not in own:
                raise InputError(f"targets: attack {name!r} is not for targets; leave it out")
            options["targeted"] = True
        if "epsilon" in own and "epsilon" not in options:
            return title, _Maker(lambda epsilon: create_for(images, name, epsilon=epsilon, **options), True)
        return title, _Maker(lambda _: create_for(images, name, **options), False)
    if _is_attack(entry):
        kind = type(entry).__name__
        if isinstance(entry, Ensemble) and hasattr(entry, "attack"):  # one that is repeated
            kind = f"{kind} {type(entry.attack).__name__}"
        return kind, _Maker(lambda _: entry, False)
    if callable(entry):
        return getattr(entry, "__name__", type(entry).__name__), _Maker(entry, True)
    raise InputError(f"an attack must be a name, a dictionary, an attack or a function of ε, not {entry!r}")


def _check_own_epsilon(name: str, attack: Any, radii: tuple[float, ...]) -> None:
    """InputError if an attack keeps to another ball than one of these radii: it would say nothing of it."""
    inner = getattr(attack, "attack", attack)  # of one that is repeated
    own = getattr(inner, "epsilon", None)
    if own is None or getattr(attack, "minimal_norm", False):
        return
    own = np.asarray(own)
    if any((np.abs(own - radius) > 1e-6 * max(radius, 1)).any() for radius in radii):
        raise InputError(
            f"attack {name!r} keeps to a ball of its own, ε = {np.max(own):.4g}, and says nothing of the "
            f"epsilons {', '.join(f'{radius:.4g}' for radius in radii)}; leave its epsilon out, or give its "
            'name or a function of ε: lambda epsilon: attacks.create("pgd", epsilon=epsilon)'
        )


def _check_attack(name: str, attack: Any, norm: Norm, largest: float, targets: TargetName | None) -> None:
    """InputError for an attack that could not count: of another norm or aim, or with too short a search."""
    own = getattr(attack, "norm", norm)
    minimal = getattr(attack, "minimal_norm", False)
    if own != norm and (not minimal or hasattr(attack, "reach")):
        raise InputError(
            f"attack {name!r} keeps its perturbation in a ball of the norm {own}, not {norm}; choose another "
            "norm for it, another attack, or a minimal-norm attack"
        )
    reach = getattr(attack, "reach", np.inf)
    if np.min(reach) < largest * (1 - 1e-6):
        raise InputError(
            f"attack {name!r} searches up to ε = {np.min(reach):.4g} and not up to the largest of the "
            f"epsilons, {largest:.4g}; give its attack that ε"
        )
    if getattr(attack, "targeted", False) and targets is None:
        raise InputError(
            f"attack {name!r} is targeted, and the labels are those of the images, not classes to reach; say "
            'which, as in targets="least_likely"'
        )


def _counting(watch: Callable[[int, int], None], count: int, summed: bool) -> Callable[[int], None]:
    """What `perturb` calls: with the images of a batch, or (`summed`) with all that are finished."""
    finished = 0

    def progress(images: int) -> None:
        nonlocal finished
        finished = images if summed else finished + images
        watch(finished, count)

    return progress


@dataclass(frozen=True)
class _Case:
    """Who is attacked, with what, and who judges."""

    judge: Victim
    seen: Victim
    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    key: jax.Array
    norm: Norm
    draws: int
    batch_size: int
    targets: TargetName | None
    arithmetic: Arithmetic | None
    trace: bool

    def correct(self, images: np.ndarray, rows: np.ndarray, purpose: int) -> np.ndarray:
        """Whether more than half of the judge's fresh draws classify these images as their labels."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, _JUDGE), purpose)
        with judging_in(self.arithmetic):
            share = accuracy_over_draws(
                self.judge,
                images,
                self.labels[rows],
                key=key,
                ids=self.ids[rows],
                draws=self.draws,
                batch_size=smaller_batch(self.batch_size, len(rows)),
            )
        return share > 0.5

    def broken_at(
        self, attack: Any, left: np.ndarray, purpose: int, watch: Callable[[int, int], None] | None
    ) -> tuple[np.ndarray, Traced | None]:
        """How long the perturbation is that breaks each image in `left`, else infinite; and the trace."""
        rows = np.flatnonzero(left)
        result = np.full(len(left), np.inf)
        if not len(rows):
            return result, None
        batch_size = smaller_batch(self.batch_size, len(rows))
        images = self.images[rows]
        if isinstance(attack, Attack | Ensemble):
            attack = some_rows(one_row_per_image(attack, self.images), rows)
        if self.draws > 1:
            attack = without_early_stop(attack)
        found = perturb(
            attack,
            self.seen,
            images,
            self.labels[rows],
            key=jax.random.fold_in(self.key, purpose),
            ids=self.ids[rows],
            batch_size=batch_size,
            targets=self.targets,
            arithmetic=self.arithmetic,
            progress=_counting(watch, len(rows), isinstance(attack, Ensemble)) if watch else None,
            trace=self.trace,
        )
        flat = (found.images - images).reshape(len(images), -1).astype(np.float64)
        length = np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[self.norm], axis=1)
        result[rows] = np.where(self.correct(found.images, rows, purpose), np.inf, length)
        return result, Traced(self.ids[rows], found.trace) if self.trace else None
