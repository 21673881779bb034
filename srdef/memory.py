"""How much memory compiled programs need, how much there is, and the largest batch that fits."""

import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from srdef.errors import InputError

# The images and results of the batch before are on the device too, while one is computed: see
# `batching.map_batches`. So many times the images of a batch, beside the arguments of the programs.
_HELD = 4

# How many programs JAX lets a CPU be behind the host; each has its results allocated.
_MOST_IN_FLIGHT = 32

# So much of an accelerator's memory a batch that is chosen here may need: what is not in the analysis of the
# compiler (workspaces of convolutions, gaps between arrays) has to fit into the rest.
SHARE = 0.8

# Results are kept batch by batch, so that a run that is stopped loses no more than one.
LARGEST_BATCH = 512

# On a CPU larger batches gain nothing; images in a batch.
CPU_BATCH = 20

# From the memory of two batches of so many images on each device that of all others follows: it is linear.
_TRIALS = 4, 8

# What a process takes later than its programs are compiled, in bytes: smaller batches of attacks whose images
# are nearly all finished are compiled on the way, and libraries for tables and pictures are imported.
LATER = 300_000_000

# What a process takes on a CPU for compiling and keeping the programs of one stage (an attack, a defense), in
# bytes.
A_STAGE = 200_000_000


def of_program(compiled: Any) -> int:
    """The bytes that a compiled program needs on each device: arguments, results and what is in between.

    Weights are arguments. Executables that come from JAX's persistent cache say the same.
    """
    found = compiled.memory_analysis()
    if found is None:  # a back end that says nothing
        return 0
    return int(
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )


def in_flight(compiled: Any, calls: int) -> int:
    """The bytes of the results that wait when the host calls a program many times before it looks again."""
    found = compiled.memory_analysis()
    return 0 if found is None else (min(calls, _MOST_IN_FLIGHT) - 1) * found.output_size_in_bytes


def of_programs(programs: Sequence[Any], images: jax.ShapeDtypeStruct) -> int:
    """The bytes that programs need on each device that run one after the other on batches of `images`."""
    assert images.sharding is not None
    shape = images.sharding.shard_shape(images.shape)
    held = _HELD * images.dtype.itemsize
    for length in shape:
        held *= length
    return max(map(of_program, programs)) + held


def of_arrays(*trees: Any) -> int:
    """The bytes of all different arrays in some pytrees: of the weights of several networks."""
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(trees) if hasattr(leaf, "nbytes")}
    return sum(leaf.nbytes for leaf in leaves.values())


def limit(devices: Sequence[Any]) -> int | None:
    """The bytes that JAX may use on the smallest of some accelerators; None if they do not say (a CPU)."""
    if devices[0].platform == "cpu":
        return None
    found = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [int(size) for size in found if size]
    return min(known, default=None)


def resident() -> int:
    """The bytes of memory that this process holds, or has held at most where only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):  # no Linux
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The bytes of memory that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_on_host() -> int | None:
    """The bytes that this machine, or the container that the process runs in, has left; None if unknown."""
    rooms = [room for room in (_free_in_machine(), _free_in_container()) if room is not None]
    return min(rooms, default=None)


def _free_in_machine() -> int | None:
    return _in_meminfo("MemAvailable")


def _in_meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, ValueError, IndexError, StopIteration):  # no Linux
        return None


def _free_in_container(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """What the limits of the control groups (version 2) of this process leave."""
    try:
        (line,) = (x for x in own.read_text(encoding="utf-8").splitlines() if x.startswith("0::"))
    except (OSError, ValueError):
        return None
    group = root / line.removeprefix("0::").strip("/")
    rooms = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            most = int((folder / "memory.max").read_bytes())  # "max" is no number: no limit
            used = int((folder / "memory.current").read_bytes())
            stat = dict(
                line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
        except (OSError, ValueError):
            continue
        # Files that were read and are kept in case they are read again make room.
        rooms.append(max(most - used + int(stat.get("inactive_file", 0)), 0))
    return min(rooms, default=None)


def all_there_is(devices: Sequence[Any]) -> int | None:
    """The bytes that these devices have in all, free or not; of a CPU those of the machine, with its swap."""
    if devices[0].platform != "cpu":
        most = limit(devices)
        return None if most is None else most * len(devices)
    try:
        swap = _in_meminfo("SwapTotal") or 0
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + swap
    except (OSError, ValueError):  # a system that does not say
        return None


def in_words(size: float) -> str:
    """`0.4 GB`, `12 MB`."""
    if size >= 5e7:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else "less than 1 MB"


def smaller(batch_size: int, needed: float, room: float, devices: int = 1) -> int:
    """The largest batch of half, a quarter, ... of the size that fits in `room`; 0 if none does."""
    size = batch_size
    while size and needed * size / batch_size > room:
        size = size // 2 // devices * devices
    return size


def shortage(
    batch_size: int,
    needed: int,
    devices: Sequence[Any],
    *,
    what: str = "images",
    program: str = "",
    held: int = 0,
    multiple: int = 1,
) -> str | None:
    """A sentence for a batch that will not fit, with the size of one that would; None if it does fit.

    Parameters
    ----------
    batch_size : int
    needed : int
        The bytes of a batch on each device; on a CPU all devices share the memory of the host.
    devices : sequence of devices
    what, program : str
        What is in a batch, and which program needs the most.
    held : int
        The bytes on each accelerator that something else takes.
    multiple : int
        What the size of a batch has to be a multiple of.
    """
    on_host = devices[0].platform == "cpu"
    room = free_on_host() if on_host else limit(devices)
    if room is None:
        return None
    needed *= len(devices) if on_host else 1
    room -= 0 if on_host else held
    if needed <= room:
        return None
    size = smaller(batch_size, needed, room, multiple)
    advice = f"batch_size={size} would fit" if size else f"smaller {what} or networks need less"
    free = f"{in_words(room)} {'are free' if on_host else 'of each device are there for them'}"
    which = f" ({program})" if program else ""
    return (
        f"batches of {batch_size} {what} need about {in_words(needed)} of memory{which}, and {free}; {advice}"
    )


def refuse_impossible(batch_size: int, each: int, devices: Sequence[Any], *, what: str = "images") -> None:
    """InputError for a batch whose images alone, of `each` so many bytes, are more than there ever is.

    What could fit is let through, though it may take far more: `shortage` warns of that.
    """
    room = all_there_is(devices)
    if room is None or batch_size * each <= room:
        return
    where = "this machine has" if devices[0].platform == "cpu" else "its devices have"
    raise InputError(
        f"batch_size={batch_size} can never fit: the {what} of one batch alone are "
        f"{in_words(batch_size * each)}, and {where} {in_words(room)} of memory; choose a smaller batch_size"
    )


def largest_batch(needs: Callable[[int], Sequence[int]], room: float, devices: int = 1) -> int:
    """The largest power of two, times the devices, of images whose programs all fit in `room`.

    Parameters
    ----------
    needs : callable
        Compiles all programs for a batch size and returns the bytes that each needs on a device; of none, it
        cannot be told.
    room : float
        Bytes on each device.
    devices : int

    Returns
    -------
    int
        At least one image on each device, also where that does not fit.
    """
    small, large = (needs(trial * devices) for trial in _TRIALS)
    slopes = [(b - a) / (_TRIALS[1] - _TRIALS[0]) for a, b in zip(small, large, strict=True)]

    def needed(images: int) -> float:
        return max(
            (b + (images - _TRIALS[1]) * slope for b, slope in zip(large, slopes, strict=True)), default=0
        )

    size = LARGEST_BATCH if large else CPU_BATCH
    while size > 1 and needed(size) > room:
        size //= 2
    return size * devices
