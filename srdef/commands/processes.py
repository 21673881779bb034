"""The options of a run in many processes: where they meet, and which of them this one is."""

import argparse
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax

import srdef
from srdef.commands import cli
from srdef.errors import InputError
from srdef.evaluation.links import Place
from srdef.evaluation.meeting import PATIENCE, meet
from srdef.evaluation.processes import ALONE, Processes
from srdef.storage.files import canonical_json

# So long a broken connection is waited for after an error of JAX, in seconds.
_GRACE = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--distributed`, `--coordinator`, `--processes` and `--process`."""
    group = parser.add_argument_group("many processes, which share the batches of one run in one --workdir")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the other processes as JAX does: SLURM, Open MPI, Kubernetes, Cloud TPU",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 waits for the others")
    group.add_argument("--processes", metavar="N", help="how many there are")
    group.add_argument("--process", metavar="I", help="which of them this one is, from 0")


def place_of(options: argparse.Namespace) -> Place | None:
    """Where the processes meet that the options speak of; None for one process alone.

    Raises
    ------
    InputError
        If the options are incomplete or contradict one another.
    """
    given = {name: getattr(options, name) for name in ("coordinator", "processes", "process")}
    if options.distributed:
        if any(value is not None for value in given.values()):
            raise InputError("--distributed finds coordinator and processes by itself; leave out the others")
        return _found_by_jax()
    if all(value is None for value in given.values()):
        return None
    for name, value in given.items():
        if value is None:
            raise InputError(f"--coordinator, --processes and --process belong together: --{name} is missing")
    for name in ("processes", "process"):
        if not (given[name].isascii() and given[name].isdecimal()):
            raise InputError(f"--{name} must be a whole number, not {given[name]!r}")
    return Place(given["coordinator"], int(given["processes"]), int(given["process"]))


def _found_by_jax() -> Place:
    """What `jax.distributed.initialize()` would find, without initializing it (see `evaluation.meeting`)."""
    from jax._src.clusters import ClusterEnv  # there is no public way to ask for this alone

    try:
        coordinator, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, [0], None, int(PATIENCE)
        )
    except Exception as error:  # whatever a launcher's variables or servers lead to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"--distributed: the launcher's description is not understood ({reason})") from None
    if coordinator is None or count is None or index is None:
        raise InputError(
            "--distributed: started by none of the launchers that JAX knows (SLURM, Open MPI, Kubernetes, "
            "Cloud TPU); say --coordinator=HOST:PORT --processes=N --process=I"
        )
    return Place(coordinator, count, index)


@contextmanager
def of(options: argparse.Namespace, command: str, config: dict[str, Any]) -> Iterator[Processes]:
    """The processes that do this run, met; only the first prints.

    Raises
    ------
    InputError
        As `place_of` and `meet`.
    """
    place = place_of(options)
    if place is None:
        yield ALONE
        return
    quiet, cli.console.quiet = cli.console.quiet, place.process > 0
    cli.console.print(f"Process 0 of {place.processes} waits for the others at {place.coordinator}")
    run = canonical_json([srdef.__version__, command, cli.plain(config)])
    try:
        with meet(place, hashlib.sha256(run.encode()).hexdigest()) as processes:
            yield processes
    finally:
        cli.console.quiet = quiet


@contextmanager
def together(options: argparse.Namespace, command: str, config: dict[str, Any]) -> Iterator[Processes]:
    """As `of`; what JAX computes on the devices of all processes, all compute together from now on.

    `jax.distributed` has the next port for itself. It is left only at the end of a run that went well: after
    another one it would wait for processes that are gone, so that `command.entry` ends this one without.

    Raises
    ------
    InputError
        As `of`, and if that port cannot be used.
    """
    with of(options, command, config) as processes:
        if processes.place is not None:
            _join(processes.place)
        try:
            yield processes
        except jax.errors.JaxRuntimeError:
            # Where another process has ended, what they compute together fails first. The thread that hears
            # of it says who it was, and ends this process.
            time.sleep(_GRACE if processes.place is not None else 0)
            raise
    if processes.place is not None:  # all have finished, and none waits long for the others
        jax.distributed.shutdown()


def _join(place: Place) -> None:
    """Make one of the devices of all processes."""
    host, port = place.coordinator.rsplit(":", 1)
    address = f"{host}:{int(port) + 1}"
    try:
        if place.process == 0:  # JAX would end the process without a word
            replace(place, coordinator=address).listen().close()
        # It would hear SIGTERM, and do nothing.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(address, place.processes, place.process)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the processes could not be joined at {address} ({reason})") from None
