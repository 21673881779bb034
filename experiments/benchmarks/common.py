"""What all benchmarks share: flags, taking turns, and the tables."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from rich.table import Table

from experiments import cli
from srdef import datasets
from srdef.errors import InputError
from srdef.images import from_uint8, to_uint8

SIZE = flags.DEFINE_integer("size", None, "Side of the images; each benchmark has its own default.")
COPIES = flags.DEFINE_integer("copies", 1, "How often the images are repeated in the batch.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each row and library.")
ONLY = flags.DEFINE_list("only", [], "Rows to time; default: all.")
LIBRARIES = flags.DEFINE_list("libraries", [], "Libraries to time; default: all.")
WRITE = flags.DEFINE_string("write", None, "File to write the table to, as Markdown; JSON beside it.")

Run = Callable[[], Any]


class Timing(NamedTuple):
    """How long one library took."""

    first_call: float  # seconds, compilation included
    seconds: list[float]  # of the later calls
    result: Any  # of the first call

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def timed(run: Run) -> tuple[float, Any]:
    """Seconds, and the result, on which it waits."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def take_turns(runs: dict[str, Run], title: str = "") -> dict[str, Timing]:
    """Run everything once, then all in turns, so that what else the machine does weighs on all."""
    first = {}
    for name, run in runs.items():
        first[name] = timed(run)
        cli.console.print(f"{title:20} {name:16} first call {first[name][0]:.2f} s", highlight=False)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS.value):
        for name, run in runs.items():
            seconds[name].append(timed(run)[0])
    timings = {name: Timing(first[name][0], seconds[name], first[name][1]) for name in runs}
    for name, timing in timings.items():
        cli.console.print(f"{title:20} {name:16} {timing.median:.3f} s", highlight=False)
    return timings


def chosen(names: list[str], wanted: list[str], kind: str) -> list[str]:
    """`wanted`, or all `names`; InputError for one that is not among them."""
    for name in wanted:
        if name not in names:
            raise InputError(f"unknown {kind} {name!r}; choose from: {', '.join(names)}")
    return wanted or names


def photographs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The sample images on the 8-bit grid, and their labels, `--copies` times over."""
    samples = datasets.load("imagenet_samples", size=SIZE.value or size)
    images = from_uint8(to_uint8(samples.images))
    return np.concatenate([images] * COPIES.value), np.concatenate([samples.labels] * COPIES.value)


def device() -> str:
    """What the times were measured on."""
    kind = jax.devices()[0].device_kind
    return f"{kind}, {len(os.sched_getaffinity(0))} cores" if kind == "cpu" else kind


def report(title: str, header: list[str], rows: list[list[str]], records: list[dict[str, Any]]) -> None:
    """Print the table; with `--write` save it as Markdown, and the records as JSON beside it."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    cli.console.print(table)
    if WRITE.value:
        path = Path(WRITE.value)
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        path.write_text(f"{title}, {device()}\n\n" + "\n".join(lines) + "\n")
        path.with_suffix(".json").write_text(json.dumps(records, indent=1))
