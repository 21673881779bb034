"""What all benchmarks share: settings, taking turns, and the tables."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from srdef import cores, datasets
from srdef.commands import cli
from srdef.errors import InputError
from srdef.images import from_uint8, to_uint8
from srdef.paths import expanded
from srdef.storage.files import check_writable, for_json, write_atomically


@dataclass(frozen=True)
class Settings:
    """What to time, and how often.

    Attributes
    ----------
    size : int or None
        Side of the images; None: each benchmark has its own.
    copies : int
        How often the images are repeated in the batch.
    repeats : int
        Timed runs of each row and library.
    only, libraries : list of str
        Rows and libraries; empty: all.
    write : Path or None
        File for the table, as Markdown; JSON beside it.
    batch : int or None
        Images in the batch of the networks; None: each benchmark has its own.
    rows : list of str
        Rows of the parts in `only`, in the benchmark of an accelerator; empty: all.
    limit, total : float
        Seconds of a part without its first calls, and of everything, after which no row is begun; a total of
        None: no limit.
    tiny : bool
        Whether everything is so small that the benchmark only shows that it runs.
    """

    size: int | None
    copies: int
    repeats: int
    only: list[str]
    libraries: list[str]
    write: Path | None
    batch: int | None
    rows: list[str]
    limit: float
    total: float | None
    tiny: bool

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Settings":
        """From the options of the command line."""
        for name in ("size", "copies", "repeats", "batch"):
            if getattr(options, name) is not None and getattr(options, name) < 1:
                raise InputError(f"--{name} must be at least 1, not {getattr(options, name)}")
        for name in ("limit", "total"):
            if getattr(options, name) is not None and not getattr(options, name) > 0:
                raise InputError(f"--{name} must be above 0 seconds, not {getattr(options, name)}")
        file = options.write = options.write and expanded(options.write)
        if file is not None and (file.suffix != ".md" or file.is_dir() or not file.parent.is_dir()):
            raise InputError(f"--write must be a file FILE.md in a folder that is there, not {str(file)!r}")
        if file is not None:
            check_writable(file)
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `Settings.of` reads."""

    def words(text: str) -> list[str]:
        return [word.strip() for word in text.split(",")]

    parser.add_argument(
        "--size", metavar="PIXELS", type=int, help="side of the images; each has its own default"
    )
    parser.add_argument(
        "--copies", metavar="NUMBER", type=int, default=1, help="how often the images are repeated (1)"
    )
    parser.add_argument(
        "--repeats", metavar="NUMBER", type=int, default=3, help="timed runs of each row and library (3)"
    )
    parser.add_argument("--only", metavar="ROW,ROW", type=words, default=[], help="rows to time (all)")
    parser.add_argument(
        "--libraries", metavar="NAME,NAME", type=words, default=[], help="libraries to time (all)"
    )
    parser.add_argument(
        "--write", metavar="FILE.md", type=Path, help="file for the table, as Markdown; JSON beside it"
    )
    parser.add_argument(
        "--batch",
        metavar="NUMBER",
        type=int,
        help="images in the batch of the networks; each has its default",
    )
    alone = parser.add_argument_group("accelerator", "whose --only chooses parts")
    alone.add_argument("--rows", metavar="ROW,ROW", type=words, default=[], help="rows of the parts (all)")
    alone.add_argument(
        "--limit", metavar="SECONDS", type=float, default=60.0, help="timed calls of each part (60)"
    )
    alone.add_argument(
        "--total", metavar="SECONDS", type=float, help="no row at all is begun later (no limit)"
    )
    alone.add_argument(
        "--tiny", action="store_true", help="small images and networks: only to see that it runs"
    )


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


def take_turns(runs: dict[str, Run], repeats: int, title: str = "") -> dict[str, Timing]:
    """Run everything once, then all in turns, so that what else the machine does weighs on all."""
    first = {}
    for name, run in runs.items():
        first[name] = timed(run)
        cli.console.print(f"{title:20} {name:16} first call {first[name][0]:.2f} s", highlight=False)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
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


def sample_images(size: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """The sample images on the 8-bit grid, and their labels, `copies` times over."""
    samples = datasets.load("imagenet_samples", size=size)
    images = from_uint8(to_uint8(samples.images))
    return np.concatenate([images] * copies), np.concatenate([samples.labels] * copies)


def device() -> str:
    """What the times were measured on."""
    kind = jax.devices()[0].device_kind
    return f"{kind}, {cores.usable()} cores" if kind == "cpu" else kind


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """The table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def report(
    title: str,
    header: list[str],
    rows: list[list[str]],
    records: list[dict[str, Any]],
    write: Path | None,
) -> None:
    """Print the table; with `write` save it as Markdown, and the records as JSON beside it."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    cli.console.print(table)
    if write:
        write_atomically(write, f"{title}, {device()}\n\n{markdown(header, rows)}")
        write_atomically(write.with_suffix(".json"), json.dumps(for_json(records), indent=1))
