"""One call: how robust is a model, under which attacks, at which ε.

`evaluate_robustness` runs attacks at several radii and counts as RobustBench does, over all images: one
that the model misclassifies when it is clean is not robust at any ε.
"""

import csv
import inspect
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from srdef import models, victims
from srdef.attacks.base import REGISTRY, Attack, create, without_early_stop
from srdef.attacks.batch import Ensemble, perturb, smaller_batch
from srdef.attacks.projections import Norm
from srdef.attacks.transfer import accuracy_over_draws
from srdef.defenses import Defense
from srdef.errors import InputError
from srdef.metrics import Rate, rate
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
# Apart from the keys of the attacks.
_JUDGE = 0x7FFFFFFF
Threat = Literal["white_box", "gray_box"]
AttackLike = str | Mapping[str, Any] | Attack | Callable[[float], Attack]


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
    """

    clean: np.ndarray
    correct: dict[str, np.ndarray]
    seconds: dict[str, tuple[float, ...]]
    epsilons: tuple[float, ...]
    norm: Norm

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
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.getvalue())
        return text.getvalue()

    def to_markdown(self) -> str:
        """A table of accuracies in percent: a row for each attack, a column for each ε."""
        header = ["attack", "clean", *(f"ε = {_epsilon(epsilon, self.norm)}" for epsilon in self.epsilons)]
        clean = _cell(self.clean_accuracy)
        lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
        for attack in self.attacks:
            cells = [attack, clean, *(_cell(found) for found in self.accuracy(attack))]
            lines.append("| " + " | ".join(cells) + " |")
        note = f"Accuracy in % over all {len(self.clean)} images, {_NORMS[self.norm]} radius ε; "
        note += "in brackets 95 % Wilson intervals."
        return "\n".join([*lines, "", note]) + "\n"

    def plot(self, path: Any = None) -> Any:
        """Accuracy against ε, a line for each attack, as a matplotlib figure.

        Parameters
        ----------
        path : path, optional
            Where to save it as well: .png, .pdf or .svg.
        """
        from srdef.reporting import style
        from srdef.storage.files import save_figure

        with style.styled():
            figure = style.new_figure(style.COLUMN, 0.75 * style.COLUMN)
            axes = figure.add_subplot()
            x = [0.0, *(255 * np.array(self.epsilons) if self.norm == "linf" else self.epsilons)]
            for index, attack in enumerate(self.attacks):
                values = [self.clean_accuracy.value, *(found.value for found in self.accuracy(attack))]
                black = attack == WORST
                axes.plot(
                    x,
                    100 * np.array(values),
                    color="black" if black else style.CYCLE[index % len(style.CYCLE)],
                    linestyle="--" if black else "-",
                    marker="" if black else "o",
                    markersize=3,
                    label=attack,
                )
            unit = " (levels of 255)" if self.norm == "linf" else ""
            axes.set_xlabel(f"{_NORMS[self.norm]} radius ε{unit}")
            axes.set_ylabel("accuracy (%)")
            axes.set_ylim(0, 100)
            axes.legend()
            if path is not None:
                save_figure(figure, path, dpi=200)
        return figure

    def __repr__(self) -> str:
        radii = zip(self.accuracy(), self.epsilons, strict=True)
        worst = ", ".join(f"{100 * r.value:.1f} % at {_epsilon(epsilon, self.norm)}" for r, epsilon in radii)
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


def _epsilon(epsilon: float, norm: Norm) -> str:
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
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    progress: Callable[[str, float, float], None] | None = None,
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
        Registered names, or "autoattack"; dictionaries `{"name": "pgd", "steps": 40}`; functions from
        ε to an attack; or attacks. An attack that was given no ε to keep to, as a minimal-norm attack, runs
        once and counts at every ε that its perturbation does not exceed.
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
    ids, batch_size
        As for `attacks.perturb`.
    progress : callable, optional
        Called after each attack and ε with the attack's name, ε and the accuracy.

    Returns
    -------
    RobustAccuracy

    Raises
    ------
    InputError
        For bad images, labels, names or radii; for "autoattack" on a random defense (give
        `{"name": "autoattack", "version": "rand"}`).
    """
    check_key(key)
    check_choice("norm", norm, ("linf", "l2", "l1"))
    check_choice("threat", threat, ("white_box", "gray_box"))
    check_count("draws", draws)
    radii = tuple(float(epsilon) for epsilon in epsilons)
    for epsilon in radii:
        check_epsilon(epsilon, norm)
    if not radii or list(radii) != sorted(set(radii)):
        raise InputError(f"epsilons must rise, not {list(radii)}")
    images = check_images(images)
    ids = check_ids(ids, len(images))
    random = defense is not None and defense.random
    judge, seen = _victims(models.wrap(model), defense, threat, draws)
    labels = check_labels(labels, len(images), victims.check_victim(judge, images.shape[1:]))
    makers = _makers(attacks, norm)
    case = _Case(judge, seen, images, labels, ids, key, norm, draws if random else 1, batch_size)

    clean = case.correct(images, np.arange(len(images)), 0)
    correct, seconds = {}, {}
    for number, (name, make) in enumerate(makers.items()):
        rows: list[np.ndarray] = []
        spent: list[float] = []
        for index, epsilon in enumerate(radii):
            started = time.monotonic()
            # A smaller ball lies within a larger one: what is broken stays broken.
            left = rows[-1] if rows else clean
            rows.append(case.under_attack(make, epsilon, left, 1 + number * len(radii) + index))
            spent.append(time.monotonic() - started)
            if progress is not None:
                progress(name, epsilon, float(rows[-1].mean()))
        correct[name], seconds[name] = np.stack(rows), tuple(spent)
    return RobustAccuracy(clean, correct, seconds, radii, norm)


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


def _makers(attacks: Sequence[AttackLike] | AttackLike, norm: Norm) -> dict[str, Callable[[float], Any]]:
    """For each attack its name, and a function from ε to the attack."""
    if isinstance(attacks, str | Mapping) or callable(attacks):
        attacks = [attacks]
    makers: dict[str, Callable[[float], Any]] = {}
    for entry in attacks:
        name, make = _maker(entry, norm)
        if name in makers:
            name = f"{name} ({len(makers) + 1})"
        makers[name] = make
    if not makers:
        raise InputError("attacks must name at least one attack")
    return makers


def _maker(entry: AttackLike, norm: Norm) -> tuple[str, Callable[[float], Any]]:
    if isinstance(entry, str | Mapping):
        options: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = str(options.pop("name", None))
        known = inspect.signature(REGISTRY.builder(name)).parameters
        if "norm" in known:
            options.setdefault("norm", norm)
        if "epsilon" in known and "epsilon" not in options:
            return name, lambda epsilon: create(name, epsilon=epsilon, **options)
        return name, lambda _: create(name, **options)
    if hasattr(entry, "init") and hasattr(entry, "step"):
        return type(entry).__name__, lambda _: entry
    if callable(entry):
        return getattr(entry, "__name__", type(entry).__name__), entry
    raise InputError(f"an attack must be a name, a dictionary, an attack or a function of ε, not {entry!r}")


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

    def correct(self, images: np.ndarray, rows: np.ndarray, purpose: int) -> np.ndarray:
        """Whether more than half of the judge's fresh draws classify these images as their labels."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, _JUDGE), purpose)
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

    def under_attack(
        self, make: Callable[[float], Any], epsilon: float, left: np.ndarray, purpose: int
    ) -> np.ndarray:
        """Whether each image is classified correctly under an attack, of those in `left`."""
        rows = np.flatnonzero(left)
        result = np.zeros(len(left), bool)
        if not len(rows):
            return result
        attack = make(epsilon)
        key = jax.random.fold_in(self.key, purpose)
        batch_size = smaller_batch(self.batch_size or len(self.images), len(rows))
        images, labels, ids = self.images[rows], self.labels[rows], self.ids[rows]
        if self.draws > 1 and not isinstance(attack, Ensemble):
            attack = without_early_stop(attack)
        adversarial = perturb(
            attack, self.seen, images, labels, key=key, ids=ids, batch_size=batch_size
        ).images
        flat = (adversarial - images).reshape(len(images), -1).astype(np.float64)
        size = np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[self.norm], axis=1)
        # Rounding must not separate a perturbation of length ε from ε.
        inside = size <= epsilon * (1 + 1e-5) + 1e-6
        result[rows] = ~inside | self.correct(adversarial, rows, purpose)
        return result
