"""One call: how robust is a model, under which attacks, at which ε.

`evaluate_robustness` runs attacks at several radii and counts as RobustBench does, over all images: one
that the model misclassifies when it is clean is not robust at any ε.
"""

import csv
import inspect
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from srdef import models, victims
from srdef.attacks.arithmetic import Arithmetic, check_arithmetic, judging_in, note
from srdef.attacks.base import REGISTRY, Attack, create, without_early_stop
from srdef.attacks.batch import perturb
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.projections import Norm
from srdef.attacks.stepping import smaller_batch
from srdef.attacks.targets import TargetName
from srdef.attacks.transfer import accuracy_over_draws
from srdef.attacks.transfer_family import create_for
from srdef.defenses import Defense
from srdef.errors import InputError
from srdef.metrics import Rate, rate
from srdef.storage.files import save_figure, write_atomically
from srdef.validation import (
    check_choice,
    check_count,
    check_epsilon,
    check_ids,
    check_images,
    check_key,
    check_labels,
)
from srdef.victims import Victim

WORST = "worst case"
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
# Of the attacks in a plot, beside the black of the worst case.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_MARKERS = "osD^v<>p"
# Apart from the keys of the attacks.
_JUDGE = 0x7FFFFFFF
Threat = Literal["white_box", "gray_box"]
AttackLike = str | Mapping[str, Any] | Attack | Ensemble | Callable[[float], Attack | Ensemble]


@dataclass(frozen=True)
class RobustAccuracy:
    """What `evaluate_robustness` returns.

    Attributes
    ----------
    clean : bool array (N,)
        Whether each image is classified correctly when it is clean.
    correct : dict of str to bool array (epsilons, N)
        For each attack, whether each image is classified correctly under it at each ε.
    seconds : dict of str to tuple of float
        How long each attack took at each ε, compilation included.
    epsilons : tuple of float
        In units of the [0, 1] range.
    norm : "linf", "l2" or "l1"
    arithmetic : str, optional
        What the steps of the attacks were computed in, if it was said.
    """

    clean: np.ndarray
    correct: dict[str, np.ndarray]
    seconds: dict[str, tuple[float, ...]]
    epsilons: tuple[float, ...]
    norm: Norm
    arithmetic: Arithmetic | None = None

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names of the attacks, then "worst case" if there are several."""
        return (*self.correct, *([WORST] if len(self.correct) > 1 else []))

    @property
    def clean_accuracy(self) -> Rate:
        """The accuracy on clean images, with its interval."""
        return rate(self.clean)

    def accuracy(self, attack: str = WORST, *, of_clean_correct: bool = False) -> list[Rate]:
        """The accuracy under one attack at each ε, with its 95 % Wilson interval.

        Parameters
        ----------
        attack : str
            One of `attacks`; in the worst case an image counts if no attack breaks it.
        of_clean_correct : bool
            Whether to count only the images that are classified correctly when clean. Default: all.
        """
        check_choice("attack", attack, (*self.correct, WORST))
        correct = self.worst_case if attack == WORST else self.correct[attack]
        return [rate(row[self.clean] if of_clean_correct else row) for row in correct]

    @property
    def worst_case(self) -> np.ndarray:
        """Whether each image is classified correctly under every attack, `(epsilons, N)`."""
        return np.logical_and.reduce(list(self.correct.values()))

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain data: one row for the clean images, then one for each attack and ε."""
        clean = self.clean_accuracy
        rows = [_row("clean", 0.0, clean, rate(self.clean[self.clean]), 0.0)]
        for attack in self.attacks:
            pairs = zip(self.accuracy(attack), self.accuracy(attack, of_clean_correct=True), strict=True)
            seconds = self.seconds.get(attack, (0.0,) * len(self.epsilons))
            for epsilon, (of_all, of_correct), spent in zip(self.epsilons, pairs, seconds, strict=True):
                rows.append(_row(attack, epsilon, of_all, of_correct, spent))
        return rows

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`; needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_csv(self, path: Any = None) -> str:
        """The rows as CSV, also written to `path` if one is given."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows()[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        if path is not None:
            write_atomically(Path(path), text.getvalue())
        return text.getvalue()

    def to_markdown(self) -> str:
        """A table of accuracies in percent: a row for each attack, a column for each ε."""
        header = ["attack", "clean", *(f"ε = {radius(epsilon, self.norm)}" for epsilon in self.epsilons)]
        clean = _cell(self.clean_accuracy)
        lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
        for attack in self.attacks:
            cells = [attack, clean, *(_cell(found) for found in self.accuracy(attack))]
            lines.append("| " + " | ".join(cells) + " |")
        text = f"Accuracy in % over all {len(self.clean)} images, {_NORMS[self.norm]} radius ε; "
        text += "in brackets 95 % Wilson intervals."
        if steps := note(self.arithmetic):
            text += f" {steps}"
        return "\n".join([*lines, "", text]) + "\n"

    def plot(self, path: Any = None) -> Any:
        """Accuracy against ε, a line for each attack, as a matplotlib figure.

        The band is the 95 % Wilson interval of the worst case.

        Parameters
        ----------
        path : path, optional
            Where to save it as well: .png, .pdf or .svg.
        """
        from srdef.reporting import style

        x = [0.0, *(255 * np.array(self.epsilons) if self.norm == "linf" else self.epsilons)]
        with style.styled():
            figure = style.new_figure(style.COLUMN, 0.75 * style.COLUMN)
            axes = figure.add_subplot()
            for index, attack in enumerate(self.attacks):
                rates = [self.clean_accuracy, *self.accuracy(attack)]
                if attack == self.attacks[-1]:
                    low, high = [100 * r.low for r in rates], [100 * r.high for r in rates]
                    axes.fill_between(x, low, high, color=style.GREY, alpha=0.15, linewidth=0)
                worst = attack == WORST
                axes.plot(
                    x,
                    [100 * found.value for found in rates],
                    color="black" if worst else _COLOURS[index % len(_COLOURS)],
                    linestyle="--" if worst else "-",
                    marker="" if worst else _MARKERS[index % len(_MARKERS)],
                    markersize=3.5,
                    label=attack,
                    clip_on=False,  # at 0 and at 100 %
                    zorder=3,
                )
            unit = " (levels of 255)" if self.norm == "linf" else ""
            axes.set_xlabel(f"{_NORMS[self.norm]} radius ε{unit}")
            axes.set_ylabel("accuracy (%)")
            axes.set_ylim(0, 100)
            axes.set_xlim(0, x[-1])
            if np.diff(x).min() >= 0.05 * x[-1]:  # else their labels would touch
                axes.set_xticks(x, [f"{value:g}" for value in x])
            axes.legend()
            if path is not None:
                save_figure(figure, path, dpi=200)
        return figure

    def __repr__(self) -> str:
        radii = zip(self.accuracy(), self.epsilons, strict=True)
        worst = ", ".join(f"{100 * r.value:.1f} % at {radius(epsilon, self.norm)}" for r, epsilon in radii)
        clean = f"{100 * self.clean_accuracy.value:.1f} %"
        return f"RobustAccuracy({len(self.clean)} images: clean {clean}, worst case {worst})"


def _row(attack: str, epsilon: float, of_all: Rate, of_correct: Rate, seconds: float) -> dict[str, Any]:
    return {
        "attack": attack,
        "epsilon": epsilon,
        "accuracy": of_all.value,
        "low": of_all.low,
        "high": of_all.high,
        "images": of_all.total,
        "accuracy_of_clean_correct": of_correct.value,
        "seconds": round(seconds, 2),
    }


def radius(epsilon: float, norm: Norm) -> str:
    """A radius as it is written: in L∞ as `8/255`."""
    return f"{255 * epsilon:g}/255" if norm == "linf" else f"{epsilon:g}"


def _cell(found: Rate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}–{100 * found.high:.1f}]"


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
        attack or one with an ε of its own, runs once and counts at every ε that its perturbation does not
        exceed.
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
        For bad images, labels, names or radii; for an attack in another norm; for "autoattack" on a random
        defense (give `{"name": "autoattack", "version": "rand"}`).
    """
    check_key(key)
    check_choice("norm", norm, ("linf", "l2", "l1"))
    check_choice("threat", threat, ("white_box", "gray_box"))
    check_count("draws", draws)
    check_arithmetic(arithmetic)
    given = list(epsilons) if isinstance(epsilons, Iterable) else [epsilons]
    for epsilon in given:
        check_epsilon(epsilon, norm)
    radii = tuple(map(float, given))
    if not radii or list(radii) != sorted(set(radii)):
        raise InputError(f"epsilons must rise, not {list(radii)}")
    images = check_images(images)
    ids = check_ids(ids, len(images))
    random = defense is not None and defense.random
    judge, seen = _victims(models.wrap(model), defense, threat, draws)
    labels = check_labels(labels, len(images), victims.check_victim(judge, images.shape[1:]))
    makers = _makers(attacks, norm, targets, images)
    for name, maker in makers.items():
        _check_attack(name, maker.make(radii[-1]), norm, radii[-1], targets)
    fresh = draws if random else 1
    case = _Case(judge, seen, images, labels, ids, key, norm, fresh, batch_size, targets, arithmetic)

    clean = case.correct(images, np.arange(len(images)), 0)
    correct, seconds = {}, {}
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
                broken_at = case.broken_at(attack, left, purpose, watch)
            # Rounding must not separate a perturbation of length ε from ε.
            rows.append(left & ~(broken_at <= epsilon * (1 + 1e-5) + 1e-6))
            spent.append(time.monotonic() - started)
            if progress is not None:
                progress(name, epsilon, float(rows[-1].mean()))
        correct[name], seconds[name] = np.stack(rows), tuple(spent)
    return RobustAccuracy(clean, correct, seconds, radii, norm, arithmetic)


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
    for entry in entries:
        name, maker = _maker(entry, norm, targets, images)
        if name in makers:
            name = f"{name} ({len(makers) + 1})"
        makers[name] = maker
    if not makers:
        raise InputError("attacks must name at least one attack")
    return makers


def _maker(entry: Any, norm: Norm, targets: TargetName | None, images: np.ndarray) -> tuple[str, _Maker]:
    if isinstance(entry, str | Mapping):
        options: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
        name, given = REGISTRY.resolve(str(options.pop("name", None)))
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
        if name == "repeat" and isinstance(options.get("attack"), str):
            own = inspect.signature(REGISTRY.builder(options["attack"])).parameters
        if "norm" in own:
            options.setdefault("norm", norm)
        if targets is not None:
            if "targeted" not in own:
                raise InputError(f"targets: attack {name!r} is not for targets; leave it out")
            options["targeted"] = True
        if "epsilon" in own and "epsilon" not in options:
            return name, _Maker(lambda epsilon: create_for(images, name, epsilon=epsilon, **options), True)
        return name, _Maker(lambda _: create_for(images, name, **options), False)
    if _is_attack(entry):
        return type(entry).__name__, _Maker(lambda _: entry, False)
    if callable(entry):
        return getattr(entry, "__name__", type(entry).__name__), _Maker(entry, True)
    raise InputError(f"an attack must be a name, a dictionary, an attack or a function of ε, not {entry!r}")


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
    batch_size: int | None
    targets: TargetName | None
    arithmetic: Arithmetic | None

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
                batch_size=smaller_batch(self.batch_size or len(self.images), len(rows)),
            )
        return share > 0.5

    def broken_at(
        self, attack: Any, left: np.ndarray, purpose: int, watch: Callable[[int, int], None] | None
    ) -> np.ndarray:
        """How long the perturbation is that breaks each image in `left`; infinite where none does."""
        rows = np.flatnonzero(left)
        result = np.full(len(left), np.inf)
        if not len(rows):
            return result
        batch_size = smaller_batch(self.batch_size or len(self.images), len(rows))
        images = self.images[rows]
        if self.draws > 1:
            attack = without_early_stop(attack)
        adversarial = perturb(
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
        ).images
        flat = (adversarial - images).reshape(len(images), -1).astype(np.float64)
        length = np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[self.norm], axis=1)
        result[rows] = np.where(self.correct(adversarial, rows, purpose), np.inf, length)
        return result
