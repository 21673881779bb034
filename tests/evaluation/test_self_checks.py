"""The self-checks pass on an honest victim and fail where gradients are masked on purpose."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct
from rich.console import Console

from srdef import attacks
from srdef.errors import InputError
from srdef.evaluation import loss_surface, self_checks
from srdef.evaluation.self_checks import Check, Subject
from srdef.reporting import adaptive_plots, adaptive_tables
from srdef.victims import ExpectationOverTransformation

KEY = jax.random.key(0)
SHAPE = (8, 8, 3)
IMAGES = np.random.default_rng(0).uniform(0.25, 0.75, (8, *SHAPE)).astype(np.float32)


class Linear(nnx.Module):
    num_classes = 4

    def __init__(self):
        weights = np.random.default_rng(1).normal(size=(int(np.prod(SHAPE)), 4))
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))

    def __call__(self, images):
        return (images.reshape(len(images), -1) - 0.5) @ self.weights[...]


def saturated(logits):
    """The softmax is 1 in float32."""
    return 1e6 * logits


def false(logits):
    """The same logits with a gradient that points the other way."""
    return 2 * jax.lax.stop_gradient(logits) - logits


def rough(logits):
    """The same logits with a gradient that points the other way in every second strip of images."""
    sign = jnp.sign(jnp.sin(1e3 * jax.lax.stop_gradient(logits[0])))
    return sign * logits + jax.lax.stop_gradient(logits - sign * logits)


WAYS = {
    "honest": lambda logits: logits,
    "stopped": jax.lax.stop_gradient,
    "saturated": saturated,
    "false": false,
    "rough": rough,
}


@struct.dataclass
class Masked:
    """A classifier with its gradients masked in one of several ways; the predictions are the same.

    The way is a number, so that one compiled program serves all of them.
    """

    classifier: Linear
    way: int

    num_classes = 4

    def __call__(self, image, key):
        return jax.lax.switch(self.way, list(WAYS.values()), self.classifier(image[None])[0])


def subject(way="honest", **options):
    labels = np.asarray(Linear()(jnp.asarray(IMAGES)).argmax(-1))
    victim = Masked(Linear(), np.int32(list(WAYS).index(way)))
    options = {"epsilon": 0.03, "steps": 10, "queries": 100} | options
    return Subject(victim, IMAGES, labels, KEY, **options)


def by_name(checks):
    return {check.name: check for check in checks}


def test_an_honest_victim_passes_every_check():
    checks = self_checks.run_all(subject())
    assert [check.name for check in checks if not check.passed] == []
    assert all(check.suggests == "" and check.measured for check in checks)
    assert self_checks.warning(checks) is None


def test_more_effort_is_as_much_as_one_says():
    """Where every second gradient is false, one step leaves 5 of 8 images, twice the effort 4, more fewer."""
    twice, more = (
        self_checks.more_effort_changes_nothing(subject("rough", effort=effort, steps=1, epsilon=0.02))
        for effort in (2, 4)
    )
    assert twice.passed
    assert not more.passed
    assert not more.masking
    left = re.fullmatch(r"iterative 62.5 %, more effort ([\d.]+) % \(4 times\)", more.measured)
    assert float(left[1]) < 50


def test_in_l2_too():
    """An honest victim passes, one whose gradient points the wrong way does not."""
    honest, wrong = (subject(way, norm="l2", epsilon=0.3) for way in ("honest", "false"))
    assert [check.name for check in self_checks.run_all(honest) if not check.passed] == []
    checks = by_name(self_checks.run_all(wrong))
    assert not checks["loss rises more along the gradient than at random"].passed
    assert not checks["unbounded ε reaches 0 %"].passed
    assert "at ε = 13.86" in checks["unbounded ε reaches 0 %"].measured  # the root of 192


# Attacks climb the logarithm of the cross-entropy, which does not saturate; the two others look at the
# cross-entropy itself.
FAILED = {"gradients neither zero nor tiny", "loss rises more along the gradient than at random"}


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("stopped", FAILED | {"white box not worse than black box", "unbounded ε reaches 0 %"}),
        ("saturated", FAILED),
    ],
)
def test_masked_gradients_fail(way, wanted):
    checks = by_name(self_checks.run_all(subject(way)))
    failed = {name for name, check in checks.items() if not check.passed}
    assert wanted <= failed
    assert "zero for 100.0 %" in checks["gradients neither zero nor tiny"].measured
    assert all(checks[name].suggests for name in failed)
    assert "may come from masked gradients" in self_checks.warning(list(checks.values()))


def test_a_false_gradient_fails_where_its_norm_tells_nothing():
    checks = by_name(self_checks.run_all(subject("false")))
    assert checks["gradients neither zero nor tiny"].passed
    assert not checks["white box not worse than black box"].passed
    assert not checks["loss rises more along the gradient than at random"].passed
    assert not checks["unbounded ε reaches 0 %"].passed


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_that_is_weaker_than_noise_is_flagged(norm):
    """At this ε the best of 100 draws fools images that PGD with a false gradient does not."""
    options = {"norm": norm, "epsilon": 0.1 if norm == "linf" else 0.8}
    subjects = (subject(way, **options) for way in ("honest", "false"))
    honest, wrong = map(self_checks.white_box_beats_noise, subjects)
    assert honest.passed
    assert not wrong.passed
    assert wrong.masking
    assert "even noise of the same size does better" in wrong.suggests
    left = re.fullmatch(r"iterative 100.0 %, noise ([\d.]+) %", wrong.measured)
    assert float(left[1]) < 87.5  # more than one image of eight


@struct.dataclass
class Lottery:
    """The classifier, but in one draw of five another class wins, whatever the image."""

    classifier: Linear

    num_classes = 4

    def __call__(self, image, key):
        logits = self.classifier(image[None])[0]
        return jnp.where(jax.random.bernoulli(key, 0.2), -logits, logits)


@pytest.mark.slow
def test_a_random_victim_is_judged_by_itself_and_not_by_its_average():
    """The mean of five draws is right where most of them are: nearly always."""
    labels = np.asarray(Linear()(jnp.asarray(IMAGES)).argmax(-1))
    averaged = ExpectationOverTransformation(Lottery(Linear()), 5, "logits")
    options = {"epsilon": 1e-6, "steps": 2, "queries": 2, "draws": 100}  # nothing can be fooled
    checked = Subject(averaged, IMAGES, labels, KEY, judge=Lottery(Linear()), random=True, **options)
    # 800 draws with a deviation of 0.014.
    for attack in ("iterative", "more effort", "black box"):
        assert checked.accuracy(attack) == pytest.approx(0.8, abs=0.05)
    assert Subject(averaged, IMAGES, labels, KEY, **options).accuracy("iterative") > 0.87


def test_each_attack_runs_once(monkeypatch):
    runs = []
    perturb = attacks.perturb

    def counted(*arguments, **options):
        runs.append(arguments[0])
        return perturb(*arguments, **options)

    monkeypatch.setattr(attacks, "perturb", counted)
    self_checks.run_all(subject())
    assert len(runs) == 6


def test_an_unfinished_attack_is_told_apart_from_masking():
    checks = [Check("a", True, "1"), Check("more steps", False, "2", "go on", masking=False)]
    assert self_checks.warning(checks) is None
    checks.append(Check("b", False, "3", "look"))
    assert "(failed: b)" in self_checks.warning(checks)
    markdown = adaptive_tables.checks_to_markdown(checks)
    assert "| more steps | **failed** | 2 | go on |" in markdown
    assert "**Warning:**" in markdown
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(adaptive_tables.checks_to_rich(checks))
    text = console.export_text()
    assert "FAILED" in text
    assert "Warning" in text


def test_landscape_of_a_linear_classifier(tmp_path):
    checked = subject()
    image, label = checked.images[0], int(checked.labels[0])
    losses = loss_surface.loss_landscape(checked.victim, image, label, key=KEY, epsilon=0.03, points=5)
    logits = np.asarray(checked.victim(image, KEY), np.float64)
    assert losses[2, 2] == pytest.approx(-np.log(np.exp(logits)[label] / np.exp(logits).sum()), rel=1e-4)
    assert (np.diff(losses[:, 2]) > 0).all()  # uphill along the gradient
    path = tmp_path / "landscape.png"
    for norm in ("linf", "l2"):
        adaptive_plots.save_landscape(path, losses, epsilon=0.03, norm=norm)
        assert path.stat().st_size > 5000
    with pytest.raises(InputError, match="odd"):
        loss_surface.loss_landscape(checked.victim, image, label, key=KEY, points=4)


def test_bad_options():
    with pytest.raises(InputError, match="epsilon must be above 0"):
        subject(epsilon=0.0)
    with pytest.raises(InputError, match="queries"):
        subject(queries=0)
    with pytest.raises(InputError, match="unknown norm 'l1'; choose from: linf, l2"):
        subject(norm="l1")
