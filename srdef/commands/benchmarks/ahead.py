"""Compile what the rows of a benchmark will run before any is timed: many programs at once, in threads.

A compiler for an accelerator tries kernels out on it, so nothing may be timed meanwhile. One program after
the other would leave most cores idle and take most of the time there is.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import jax

from srdef import interrupts
from srdef.cache import COMPILERS, compiler_count
from srdef.commands import cli
from srdef.commands.benchmarks.ledger import Row, line_of
from srdef.commands.benchmarks.workbench import PRECISIONS
from srdef.evaluation.programs import Job

Clock = Callable[[], float]


@dataclass(frozen=True)
class Compiled:
    """What was compiled before the first row was timed.

    Attributes
    ----------
    seconds : dict of Row to float
        What the threads of a row took, together; rows of which some program was not compiled are missing.
    left : int
        Rows with programs that were not begun in time: their first calls compile them.
    workers : int
        Threads.
    elapsed : float
        Seconds of everything.
    """

    seconds: dict[Row, float]
    left: int
    workers: int
    elapsed: float

    def __str__(self) -> str:
        """What stands above a table with these figures."""
        if not self.seconds and not self.left:
            return ""
        left = f" {self.left} rows were not begun in time: their first calls compile." if self.left else ""
        return (
            f"The programs of {len(self.seconds)} rows were compiled ahead, up to {self.workers} side by "
            f'side, in {self.elapsed:.0f} s; "compile (s)" is what the threads of a row took then, waiting '
            f"for each other included.{left}"
        )


def program(arithmetic: str, function: Any, *arguments: Any) -> Job:
    """What compiles a jitted function for arrays, or shapes and types, in the arithmetic of its calls."""
    shapes = jax.eval_shape(lambda *arrays: arrays, *arguments)

    def compile_it() -> None:
        with jax.default_matmul_precision(PRECISIONS[arithmetic]):  # which each thread has of its own
            function.lower(*shapes).compile()

    return compile_it


def compile_ahead(
    rows: Sequence[Row], limit: float, *, workers: int | None = None, clock: Clock = time.perf_counter
) -> Compiled:
    """Compile what the rows will run, in their order.

    Parameters
    ----------
    rows : sequence of Row
        Those without `ahead` are passed over. What fails here is left to the row, which says why.
    limit : float
        Seconds after which nothing is begun. What is being compiled then cannot be interrupted, and is waited
        for; 0: nothing is compiled.
    workers : int, optional
        Threads; default: one for each core but one.
    """
    start = clock()
    workers = workers or compiler_count()
    pool = ThreadPoolExecutor(workers, COMPILERS)
    wanted = [row for row in rows if row.ahead is not None] if limit > 0 else []
    begun: dict[Row, list[Future[float | None]]] = {}
    done: dict[Row, float | None] = {}

    def timed(job: Job) -> float | None:
        """Its seconds, or None if time is over before it begins."""
        before = clock()
        if before - start >= limit:
            return None
        job()
        return clock() - before

    def look() -> None:
        """Say which rows are done since the last look."""
        interrupts.check()
        for row, jobs in begun.items():
            if row not in done and all(job.done() for job in jobs):
                done[row] = _finished(row, jobs)
                if done[row] is not None:
                    after = f"{done[row]:.1f} s, after {clock() - start:.0f} s"
                    _print(f"compiled {len(done)} of {len(wanted)}: {row.what} {row.arithmetic}, {after}")

    try:
        for row in wanted:
            if clock() - start >= limit:
                break
            begun[row] = [pool.submit(timed, job) for job in _jobs(row)]
            look()
        while waiting := [job for jobs in begun.values() for job in jobs if not job.done()]:
            wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            look()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    look()
    left = sum(row not in begun or _late(begun[row]) for row in wanted)
    seconds = {row: spent for row, spent in done.items() if spent is not None}
    threads = min(workers, sum(map(len, begun.values())))
    return Compiled(seconds, left, threads, clock() - start)


def _jobs(row: Row) -> Sequence[Job]:
    """What compiles the row's programs; nothing where even that cannot be said."""
    assert row.ahead is not None
    try:
        return row.ahead()
    except Exception as error:  # the row says it once more
        _say(row, error)
        return []


def _late(jobs: Sequence[Future[float | None]]) -> bool:
    return any(job.exception() is None and job.result() is None for job in jobs)


def _finished(row: Row, jobs: Sequence[Future[float | None]]) -> float | None:
    """The seconds that compiling the row has taken, or None if it did not come to its end."""
    if not jobs or _late(jobs):
        return None
    for error in [job.exception() for job in jobs]:
        if error is not None:
            _say(row, error)
            return None
    return sum(job.result() or 0 for job in jobs)


def _say(row: Row, error: BaseException) -> None:
    _print(f"not compiled ahead: {row.what} {row.arithmetic}: {line_of(error)}")


def _print(line: str) -> None:
    cli.console.print(line, highlight=False, markup=False, soft_wrap=True)
