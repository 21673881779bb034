"""`config.batch_size = "auto"`: the largest batch that fits, decided once for a run."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from srdef import memory
from srdef.evaluation.programs import Job, Names, of_all
from srdef.evaluation.progress import Reporter
from srdef.evaluation.schema import AUTO
from srdef.storage.files import canonical_json, write_atomically

# In the workdir: a run that continues keeps its batches, by which its results are stored.
FILE = "batch_size.json"


def settle(
    config: dict[str, Any],
    count: int,
    workdir: Path,
    reporter: Reporter,
    jobs: Callable[[int], dict[Names, Job]],
) -> int:
    """The batch size of a run, also where its configuration leaves it open.

    On accelerators the largest power of two, times the devices, for which all programs fit into
    `memory.SHARE` of their memory. To know, it compiles them for two small sizes, from which all others
    follow. On a CPU `memory.CPU_BATCH`, as larger batches gain nothing there. Process 0 decides by its own
    devices and tells the others.

    Parameters
    ----------
    config : dict
        Plain data.
    count : int
        How many images there are at most.
    workdir : Path
        Keeps what was decided for this configuration.
    reporter : Reporter
    jobs : callable
        What compiles all programs for a batch size.
    """
    if config["batch_size"] != AUTO:
        return min(int(config["batch_size"]), count)
    size = reporter.processes.agree(
        lambda: _kept(config, workdir) or _decide(config, workdir, reporter, jobs)
    )
    return min(size, count)


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def _kept(config: dict[str, Any], workdir: Path) -> int | None:
    """What was decided before, if that was for the same configuration."""
    try:
        found = json.loads((workdir / FILE).read_text(encoding="utf-8"))
        size, of = found["batch_size"], found["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if of == _digest(config) and type(size) is int and size > 0 else None


def _decide(
    config: dict[str, Any], workdir: Path, reporter: Reporter, jobs: Callable[[int], dict[Names, Job]]
) -> int:
    devices = jax.local_devices()
    limit = memory.limit(devices)
    if limit is None:
        size, why = memory.CPU_BATCH, "on a CPU larger batches gain nothing"
        if devices[0].platform != "cpu":
            why = "the device does not say how much memory it has"
    else:
        with reporter.console.status("compiling small batches, to find the largest that fits"):
            size = memory.largest_batch(
                lambda trial: of_all(jobs(trial).values()), memory.SHARE * limit, len(devices)
            )
        why = f"the largest of its kind in {memory.SHARE:.0%} of {memory.in_words(limit)}"
    write_atomically(workdir / FILE, canonical_json({"batch_size": size, "config": _digest(config)}) + "\n")
    reporter.console.print(f"batch_size={size} ({why})", highlight=False)
    return size
