"""Steps from a speed, by hand."""

import pytest

from configs.train_edsr import get_config
from srdef.errors import InputError
from srdef.training import budget


def config(**changes):
    config = get_config("baseline_x2,gpu")
    config.update({"minutes": 10.0, **changes})
    return config


def records(speed, overhead, steps=400, batch=64):
    """Logged intervals at `speed` steps a second after `overhead` seconds of compilation."""
    return [
        {"step": step, "images_per_second": speed * batch, "seconds": overhead + step / speed}
        for step in range(100, steps + 1, 100)
    ]


def test_steps_that_fill_the_time():
    """50 steps a second: 582 s planned, 28 s are gone, of which 20 s of compilation come once more."""
    assert budget.fit_steps(config(), records(50, overhead=20)) == 400 + 50 * (582 - 28 - 20)


def test_one_slow_interval_does_not_count():
    """The first may hold an autotuning; the median does not see it."""
    found = records(50, overhead=20)
    found[0]["images_per_second"] /= 10
    assert budget.fit_steps(config(), found) == 400 + 50 * (582 - 28 - 20)


def test_no_time_left():
    """At least one step that is planned after the warm-up, of which the hard limit will cut off the rest."""
    assert budget.fit_steps(config(minutes=0.1), records(50, overhead=20)) == 501


def test_the_probe_lies_in_the_warm_up():
    assert budget.probe_steps(config()) == 400 <= config().warmup_steps
    with pytest.raises(InputError, match="4 log_every = 400 steps of warm-up; warmup_steps is 300"):
        budget.probe_steps(config(warmup_steps=300))
    assert budget.probe_steps(config(schedule="halve", warmup_steps=0)) == 400


def test_the_rate_is_halved_as_often():
    before = config(schedule="halve", steps=50_000, halve_every=25_000)
    after = budget.with_steps(before, 12_000)
    assert (after.steps, after.halve_every) == (12_000, 6_000)
    assert (before.steps, before.halve_every) == (50_000, 25_000)
