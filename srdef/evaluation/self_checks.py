"""Checks that tell a defense from an attack that does not work.

Carlini et al. 2019, "On evaluating adversarial robustness" (arXiv:1902.06705), sections 4 and 5, and
Athalye, Carlini and Wagner 2018 (arXiv:1802.00420), section 3.1. Each check runs on any victim and says
what a failure suggests; none of them proves that a defense is robust.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef import attacks
from srdef.attacks.projections import Norm
from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.evaluation.loss_surface import gradient_norms, gradient_wins
from srdef.validation import check_choice, check_count, check_ids, check_images, check_labels
from srdef.victims import Victim, check_victim

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
        Radius of the ball, in units of the [0, 1] range.
    norm : "linf" or "l2"
        The norm in which ε is measured.
    steps : int
        Steps of the iterative attack.
    queries : int
        Queries of the black-box attack; also the draws of noise, of which there are 100 at most.
    draws : int
        Fresh draws with which each adversarial image of a random victim is judged.
    effort : int
        How many times the steps and restarts of the iterative attack the check of its convergence takes, at
        least 2. Random defenses may need 4 or 8 until it sees anything.
    ids, batch_size
        As for `attacks.perturb`.
    judge : Victim, optional
        The victim whose accuracies are compared; default: `victim`. For a random defense attacked through
        `ExpectationOverTransformation` the defense itself, not the average of several draws of it.
    random : bool
        Whether the judge is random: then no attack stops at its first success, which may be one lucky draw.
    """

    victim: Victim
    images: Any
    labels: Any
    key: jax.Array
    epsilon: float = 8 / 255
    norm: Norm = "linf"
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
        check_choice("norm", self.norm, ("linf", "l2"))
        if not self.epsilon > 0:
            raise InputError(f"epsilon must be above 0, not {self.epsilon}")
        images = check_images(self.images)
        object.__setattr__(self, "images", images)
        object.__setattr__(
            self,
            "labels",
            check_labels(self.labels, len(images), check_victim(self.victim, images.shape[1:])),
        )
        object.__setattr__(self, "ids", check_ids(self.ids, len(images)))

    def accuracy(self, name: str) -> float:
        """Accuracy under one of the attacks that the checks compare; each runs once."""
        if name not in self._known:
            self._known[name] = self._accuracy(_ATTACKS[name](self))
        return self._known[name]

    def _accuracy(self, attack: attacks.Attack) -> float:
        options: dict[str, Any] = {"ids": self.ids, "batch_size": self.batch_size}
        attack = attacks.without_early_stop(attack) if self.random else attack
        adversarial = attacks.perturb(attack, self.victim, self.images, self.labels, key=self.key, **options)
        share = attacks.accuracy_over_draws(
            self.victim if self.judge is None else self.judge,
            adversarial.images,
            self.labels,
            key=jax.random.fold_in(self.key, 0xFFFFFFF0),
            draws=self.draws,
            **options,
        )
        return float(share.mean())

    @property
    def everything(self) -> float:
        """The radius of a ball that holds every image."""
        return 1.0 if self.norm == "linf" else float(np.sqrt(self.images[0].size))


def _pgd(subject: Subject, scale: int) -> attacks.Attack:
    norm: Any = subject.norm  # of the two that PGD knows
    return attacks.pgd(subject.epsilon, norm=norm, steps=scale * subject.steps, restarts=scale)


_ATTACKS = {
    "single step": lambda s: attacks.pgd(
        s.epsilon, norm=s.norm, steps=1, step_size=s.epsilon, random_start=False
    ),
    "iterative": lambda s: _pgd(s, 1),
    "more effort": lambda s: _pgd(s, s.effort),
    "black box": lambda s: attacks.square(s.epsilon, norm=s.norm, queries=s.queries),
    "noise": lambda s: attacks.uniform_noise(s.epsilon, norm=s.norm, tries=min(s.queries, 100)),
    # From the image itself: a random start in this ball is noise, which needs no gradient to be misread.
    "unbounded": lambda s: attacks.pgd(s.everything, norm=s.norm, steps=s.steps, random_start=False),
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


def white_box_beats_noise(subject: Subject) -> Check:
    """PGD leaves no more accuracy than the best of many draws of uniform noise within ε."""
    suggests = "the gradient is of no use: even noise of the same size does better; replace it (BPDA)"
    return _compare(subject, "white box not worse than noise", "iterative", "noise", suggests)


def unbounded_reaches_zero(subject: Subject) -> Check:
    """With an ε of the whole range nothing is classified correctly."""
    accuracy = subject.accuracy("unbounded")
    # A random victim may answer correctly by chance in some of its draws.
    passed = accuracy < _margin(subject) if subject.random else accuracy == 0
    suggests = "the attack fails even where every image is allowed: its gradients or its loss are of no use"
    measured = f"accuracy {100 * accuracy:.1f} % at ε = {subject.everything:.4g}"
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


def gradients_are_alive(subject: Subject) -> Check:
    """No image has a zero gradient, nor a tiny one, at the image itself."""
    norms = map_batches(
        gradient_norms,
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


def gradient_beats_random_direction(subject: Subject) -> Check:
    """Within ε the loss rises more along the steepest direction than along a random one."""
    wins = map_batches(
        partial(gradient_wins, norm=subject.norm, draws=subject.draws),
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


CHECKS = (
    iterative_beats_single_step,
    white_box_beats_black_box,
    white_box_beats_noise,
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
