"""Checks that tell a defense from an attack that does not work.

Carlini et al. 2019, "On evaluating adversarial robustness" (arXiv:1902.06705), sections 4 and 5, and
Athalye, Carlini and Wagner 2018 (arXiv:1802.00420), section 3.1. Each check runs on any victim and says
what a failure suggests; none of them proves that a defense is robust.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from srdef import attacks
from srdef.attacks.gradient_sign import cross_entropy
from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.storage.files import save_figure
from srdef.validation import check_count, check_ids, check_images, check_labels
from srdef.victims import Victim, expected

WARNING = "the accuracy under attack may come from masked gradients: no evidence of robustness"
# Below this L2 norm a float32 gradient of the loss is mostly rounding.
TINY_NORM = 1e-6


@dataclass(frozen=True)
class Check:
    """What one check has found.

    Attributes
    ----------
    name : str
        What should hold.
    passed : bool
    measured : str
        The numbers.
    suggests : str
        What a failure suggests; empty if it passed.
    masking : bool
        Whether a failure points to masked gradients (or to a search that is too short).
    """

    name: str
    passed: bool
    measured: str
    suggests: str = ""
    masking: bool = True


@dataclass(frozen=True)
class Subject:
    """What is checked, and with what effort.

    Attributes
    ----------
    victim : Victim
        What the attacks see and differentiate.
    images : float array (N, height, width, 3)
        Images that the judge classifies as their labels; others count as broken by everything.
    labels : integer array (N,)
    key : jax.random.key
    epsilon : float
        Radius of the L∞ ball, in units of the [0, 1] range.
    steps : int
        Of the iterative attack.
    queries : int
        Of the black-box attack.
    draws : int
        Fresh draws with which each attacked image of a random victim is judged.
    effort : int
        How many times the steps and restarts of the iterative attack the check of its convergence takes, at
        least 2. Random defenses may need 4 or 8 until it sees anything.
    ids, batch_size
        As for `attacks.perturb`.
    judge : Victim, optional
        What the accuracies are those of; default: the victim. For a random defense attacked through
        `ExpectationOverTransformation` the defense itself, not the average of several draws of it.
    random : bool
        Whether the judge is random: then no attack stops at its first success, which may be one lucky draw.
    """

    victim: Victim
    images: Any
    labels: Any
    key: jax.Array
    epsilon: float = 8 / 255
    steps: int = 20
    queries: int = 500
    draws: int = 1
    effort: int = 2
    ids: Any = None
    batch_size: int | None = None
    judge: Victim | None = None
    random: bool = False
    _known: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("steps", "queries", "draws", "effort"):
            check_count(name, getattr(self, name))
        if self.effort < 2:
            raise InputError(
                "effort must be at least 2: so many times that of the attack it is compared with"
            )
        if not self.epsilon > 0:
            raise InputError(f"epsilon must be above 0, not {self.epsilon}")
        images = check_images(self.images)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", check_labels(self.labels, len(images), self.victim.num_classes))
        object.__setattr__(self, "ids", check_ids(self.ids, len(images)))

    def accuracy(self, name: str) -> float:
        """Accuracy under one of the attacks that the checks compare; each runs once."""
        if name not in self._known:
            self._known[name] = self._accuracy(_ATTACKS[name](self))
        return self._known[name]

    def _accuracy(self, attack: attacks.Attack) -> float:
        options: dict[str, Any] = {"ids": self.ids, "batch_size": self.batch_size}
        attack = attacks.without_early_stop(attack) if self.random else attack
        attacked = attacks.perturb(attack, self.victim, self.images, self.labels, key=self.key, **options)
        share = attacks.accuracy_over_draws(
            self.victim if self.judge is None else self.judge,
            attacked.images,
            self.labels,
            key=jax.random.fold_in(self.key, 0xFFFFFFF0),
            draws=self.draws,
            **options,
        )
        return float(share.mean())


def _pgd(subject: Subject, scale: int, epsilon: float) -> attacks.Attack:
    steps = scale * subject.steps
    return attacks.pgd(epsilon, steps=steps, restarts=scale)


_ATTACKS = {
    "single step": lambda s: attacks.fgsm(s.epsilon),
    "iterative": lambda s: _pgd(s, 1, s.epsilon),
    "more effort": lambda s: _pgd(s, s.effort, s.epsilon),
    "black box": lambda s: attacks.square(s.epsilon, queries=s.queries),
    # From the image itself: a random start in this ball is noise, which needs no gradient to be misread.
    "unbounded": lambda s: attacks.pgd(1.0, steps=s.steps, random_start=False),
}


def _margin(subject: Subject) -> float:
    """The difference that is noise: one image."""
    return 1 / len(subject.labels) + 1e-9


def _compare(
    subject: Subject, name: str, better: str, worse: str, suggests: str, *, both_ways: bool = False
) -> Check:
    """Whether one attack leaves no more accuracy than another, to within one image."""
    first, second = subject.accuracy(better), subject.accuracy(worse)
    difference = abs(first - second) if both_ways else first - second
    passed = difference <= _margin(subject)
    measured = f"{better} {100 * first:.1f} %, {worse} {100 * second:.1f} %"
    return Check(name, passed, measured, "" if passed else suggests)


def iterative_beats_single_step(subject: Subject) -> Check:
    """PGD leaves no more accuracy than FGSM."""
    return _compare(
        subject,
        "iterative attack not worse than single step",
        "iterative",
        "single step",
        "the gradient leads astray along the way: tune the step size, or replace the gradient (BPDA, EOT)",
    )


def white_box_beats_black_box(subject: Subject) -> Check:
    """PGD leaves no more accuracy than Square, which sees no gradient."""
    return _compare(
        subject,
        "white box not worse than black box",
        "iterative",
        "black box",
        "gradients are masked: a search without them does better; attack through a surrogate (BPDA)",
    )


def unbounded_reaches_zero(subject: Subject) -> Check:
    """With a budget of the whole range nothing is classified right."""
    accuracy = subject.accuracy("unbounded")
    # A random victim may be right by chance in some of its draws.
    passed = accuracy < _margin(subject) if subject.random else accuracy == 0
    suggests = "the attack fails even where every image is allowed: its gradients or its loss are of no use"
    measured = f"accuracy {100 * accuracy:.1f} % at ε = 1"
    return Check("unbounded ε reaches 0 %", passed, measured, "" if passed else suggests)


def more_effort_changes_nothing(subject: Subject) -> Check:
    """`subject.effort` times the steps and the restarts change the accuracy by one image at most."""
    check = _compare(
        subject,
        "more steps and restarts change nothing",
        "iterative",
        "more effort",
        "the attack has not converged: give it more steps and restarts until the accuracy stays",
        both_ways=True,
    )
    measured = f"{check.measured} ({subject.effort} times)"
    return Check(check.name, check.passed, measured, check.suggests, masking=False)


@jax.jit
def _gradient_norms(
    victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array
) -> jax.Array:
    def one(image: jax.Array, label: jax.Array, i: jax.Array) -> jax.Array:
        return jnp.linalg.norm(_loss_gradient(victim, image, label, jax.random.fold_in(key, i)).ravel())

    return jax.vmap(one)(images, labels, ids)


def _loss_gradient(victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
    return jax.grad(lambda x: expected(victim, lambda z: cross_entropy(z, label), x, key))(image)


def gradients_are_alive(subject: Subject) -> Check:
    """No image has a zero gradient, nor a tiny one, at the image itself."""
    norms = map_batches(
        _gradient_norms,
        (subject.victim, subject.key),
        (subject.images, subject.labels, subject.ids),
        batch_size=subject.batch_size,
    )
    finite = bool(np.isfinite(norms).all())
    zero, tiny = float((norms == 0).mean()), float((norms < TINY_NORM).mean())
    passed = finite and tiny == 0
    suggests = (
        "the loss is flat or saturated, or something has no gradient (rounding, an argmax, a softmax "
        "before the logits): give it one, or attack the logits"
    )
    median = float(np.median(norms))
    measured = (
        f"zero for {100 * zero:.1f} %, below {TINY_NORM:g} for {100 * tiny:.1f} %, median norm {median:.2g}"
    )
    if not finite:
        measured += ", some not finite"
    return Check("gradients neither zero nor tiny", passed, measured, "" if passed else suggests)


@partial(jax.jit, static_argnames=("points", "draws"))
def _landscape(
    victim: Victim,
    image: jax.Array,
    label: jax.Array,
    key: jax.Array,
    epsilon: jax.Array,
    *,
    points: int,
    draws: int,
) -> jax.Array:
    gradient_key, random_key, loss_key = jax.random.split(key, 3)
    along = jnp.sign(_loss_gradient(victim, image, label, gradient_key))
    across = jax.random.rademacher(random_key, image.shape, image.dtype)
    steps = jnp.linspace(-epsilon, epsilon, points)
    keys = jax.random.split(loss_key, draws)

    def loss(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        x = jnp.clip(image + pair[0] * along + pair[1] * across, 0, 1)
        return jax.lax.map(lambda k: expected(victim, lambda z: cross_entropy(z, label), x, k), keys).mean()

    a, b = jnp.meshgrid(steps, steps, indexing="ij")
    return jax.lax.map(loss, (a.ravel(), b.ravel())).reshape(points, points)


def loss_landscape(
    victim: Victim,
    image: np.ndarray | jax.Array,
    label: int,
    *,
    key: jax.Array,
    epsilon: float = 8 / 255,
    points: int = 21,
    draws: int = 1,
) -> np.ndarray:
    """The cross-entropy on the plane of the gradient's sign and a random sign, around one image.

    Parameters
    ----------
    image : float array (height, width, 3)
    label : int
    epsilon : float
        The plane reaches from -ε to ε along both directions.
    points : int
        Along each direction; odd, so that the image itself is in the middle.
    draws : int
        Of a random victim, over which each value is averaged; the same for all values.

    Returns
    -------
    float array (points, points)
        Losses; the first axis is the gradient's.
    """
    check_count("points", points)
    check_count("draws", draws)
    if points % 2 == 0:
        raise InputError(f"points must be odd, not {points}")
    image = check_images(np.asarray(image)[None])[0]
    return np.asarray(
        _landscape(victim, image, jnp.int32(label), key, jnp.float32(epsilon), points=points, draws=draws)
    )


@partial(jax.jit, static_argnames="draws")
def _gradient_wins(
    victim: Victim,
    key: jax.Array,
    epsilon: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    draws: int,
) -> jax.Array:
    """Whether the loss rises at all along the gradient's sign, and more than along a random sign."""

    def one(image: jax.Array, label: jax.Array, i: jax.Array) -> jax.Array:
        gradient_key, random_key, loss_key = jax.random.split(jax.random.fold_in(key, i), 3)
        gradient = _loss_gradient(victim, image, label, gradient_key)
        across = jax.random.rademacher(random_key, image.shape, image.dtype)
        keys = jax.random.split(loss_key, draws)

        def loss(change: jax.Array) -> jax.Array:
            x = jnp.clip(image + change, 0, 1)

            def draw(k: jax.Array) -> jax.Array:
                return expected(victim, lambda z: cross_entropy(z, label), x, k)

            return jax.lax.map(draw, keys).mean()

        # The best of a few lengths: a full step may go past the top.
        lengths = epsilon * jnp.array([0.25, 0.5, 1.0])
        along = jax.lax.map(lambda length: loss(length * jnp.sign(gradient)), lengths).max()
        random = jax.lax.map(lambda length: loss(length * across), lengths).max()
        return (along > random) & (along > loss(jnp.zeros_like(image)))

    return jax.vmap(one)(images, labels, ids)


def gradient_beats_random_direction(subject: Subject) -> Check:
    """Within ε the loss rises more along the gradient's sign than along a random sign."""
    wins = map_batches(
        partial(_gradient_wins, draws=subject.draws),
        (subject.victim, subject.key, jnp.float32(subject.epsilon)),
        (subject.images, subject.labels, subject.ids),
        batch_size=subject.batch_size,
    )
    share = float(wins.mean())
    passed = 1 - share <= max(0.1, _margin(subject))
    suggests = "the gradient does not point to higher loss: the loss surface is rough, or the gradient false"
    return Check(
        "loss rises more along the gradient than at random",
        passed,
        f"for {100 * share:.1f} % of the images",
        "" if passed else suggests,
    )


def save_landscape(path: str | Path, losses: np.ndarray, *, epsilon: float, title: str = "") -> None:
    """Write a PNG of what `loss_landscape` returns: contours, with the image in the middle.

    Parameters
    ----------
    losses : array (points, points)
    epsilon : float
        As given to `loss_landscape`.
    """
    levels = 255 * np.linspace(-epsilon, epsilon, len(losses))
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    contours = axes.contourf(levels, levels, losses.T, levels=20, cmap="viridis")
    axes.plot(0, 0, "w+", markersize=10)
    axes.set_xlabel("along the gradient's sign (levels of 255)")
    axes.set_ylabel("along a random sign")
    axes.set_title(title)
    figure.colorbar(contours, label="cross-entropy")
    save_figure(figure, path, dpi=150)


CHECKS = (
    iterative_beats_single_step,
    white_box_beats_black_box,
    unbounded_reaches_zero,
    more_effort_changes_nothing,
    gradients_are_alive,
    gradient_beats_random_direction,
)


def run_all(subject: Subject) -> list[Check]:
    """All checks in order; each attack runs once."""
    return [check(subject) for check in CHECKS]


def warning(checks: Sequence[Check]) -> str | None:
    """What to write beside the accuracy if a check that points to masked gradients failed."""
    failed = [check.name for check in checks if check.masking and not check.passed]
    return f"{WARNING} (failed: {'; '.join(failed)})" if failed else None


def to_rich(checks: Sequence[Check]) -> Group:
    """For the terminal."""
    table = Table(title="Self-checks", box=rich.box.SIMPLE_HEAD)
    for name in ("check", "", "measured", "suggests"):
        table.add_column(name)
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(check.name, verdict, check.measured, check.suggests)
    line = warning(checks)
    return Group(table) if line is None else Group(table, Text(f"Warning: {line}.", "bold red"))


def to_markdown(checks: Sequence[Check]) -> str:
    """A GitHub table, and under it the warning if there is one."""
    lines = ["**Self-checks.**", "", "| check | | measured | suggests |", "|---|---|---|---|"]
    for check in checks:
        verdict = "passed" if check.passed else "**failed**"
        lines.append(f"| {check.name} | {verdict} | {check.measured} | {check.suggests} |")
    line = warning(checks)
    if line is not None:
        lines += ["", f"> **Warning:** {line}."]
    return "\n".join(lines) + "\n"
