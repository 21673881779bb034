"""How many steps fit into a time, from the speed of the first ones."""

import copy
import statistics
from typing import Any

import ml_collections

from srdef.errors import InputError

# Of the time, what is planned for: the rest is for evaluations and checkpoints that take longer.
PLANNED = 0.97
# Logged intervals in which the speed is measured.
INTERVALS = 4


def probe_steps(config: ml_collections.ConfigDict) -> int:
    """The steps in which the speed is measured: while the learning rate does not depend on `steps`.

    Raises
    ------
    InputError
        If the learning rate begins to fall before the speed is known.
    """
    steps = INTERVALS * config.log_every
    if config.schedule == "cosine" and config.warmup_steps < steps:
        raise InputError(
            f"minutes need a speed, measured in {INTERVALS} log_every = {steps} steps of warm-up; "
            f"warmup_steps is {config.warmup_steps}"
        )
    return steps


def fit_steps(config: ml_collections.ConfigDict, records: list[dict[str, Any]]) -> int:
    """The number of steps that ends `config.minutes` after the training's start.

    Compilation, with what else was not stepping, is expected once more, because the learning rate's new
    plan is a new program.

    Parameters
    ----------
    config : ConfigDict
        With `minutes` and `batch_size`.
    records : list of dict
        Of the first steps: `step`, `images_per_second` and `seconds`.
    """
    speed = statistics.median(record["images_per_second"] for record in records) / config.batch_size
    step, seconds = records[-1]["step"], records[-1]["seconds"]
    overhead = max(seconds - step / speed, 0.0)
    left = 60 * config.minutes * PLANNED - seconds - overhead
    return max(step + int(left * speed), step + 1, config.warmup_steps + 1)


def with_steps(config: ml_collections.ConfigDict, steps: int) -> ml_collections.ConfigDict:
    """A copy of `config` with that number of steps, and the learning rate halved as often as before."""
    config = copy.deepcopy(config)
    config.halve_every = max(round(config.halve_every * steps / config.steps), INTERVALS * config.log_every)
    config.steps = steps
    return config
