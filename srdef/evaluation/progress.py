"""What a run shows while it works."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from srdef import interrupts
from srdef.evaluation.processes import ALONE, Processes
from srdef.storage.memory import Store

# How often processes look what the others have written, in seconds.
_PAUSE = 1.0


@dataclass
class Reporter:
    """Shows what runs: bars in a terminal, and one line for each finished step everywhere.

    Attributes
    ----------
    console : Console
        Default: a silent one.
    computed : int
        How many images the steps computed so far.
    processes : Processes
        All that do this run; default: this one alone.
    """

    console: Console = field(default_factory=lambda: Console(quiet=True, markup=False))
    computed: int = field(default=0)
    processes: Processes = ALONE

    @contextmanager
    def step(
        self, title: str, total: int, left: int, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """Show the progress of one step with `left` of `total` images, or another unit, still to do."""
        if unit == "images":
            self.computed += left
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        started = time.monotonic()
        hidden = not (left and self.console.is_terminal)
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(f"{title:<28}", total=total, completed=total - left)
            yield lambda count: progress.advance(task, count)
        if left:
            self.console.print(
                f"{title:<28} {left:4d} {unit} {time.monotonic() - started:7.1f} s",
                highlight=False,
                markup=False,
            )

    def complete(
        self,
        title: str,
        store: Store,
        compute: Callable[[slice], dict[str, np.ndarray]],
        ahead: Callable[[slice], None] | None = None,
    ) -> None:
        """Compute and write the batches that `store` does not hold yet; of several processes each its own.

        Returns when no batch is missing. `ahead`, if given, is told the next batch before one is computed.
        """
        missing = store.missing()
        if store.damaged:
            images = ", ".join(f"{rows.start} to {rows.stop - 1}" for rows in store.damaged)
            self.console.print(
                f"{title}: files are missing or damaged in {store.path}; computing images {images} again",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        left = sum(rows.stop - rows.start for rows in missing)
        with self.step(title, store.count, left) as advance:
            pending, looked = {rows.start: rows for rows in missing}, time.monotonic()

            def look() -> None:
                """Take note of the batches that other processes have written."""
                for rows in list(pending.values()):
                    if store.done(rows):
                        del pending[rows.start]
                        advance(rows.stop - rows.start)

            for rows in _telling(ahead, self.processes.share(store, missing)):
                store.write(rows, **compute(rows))
                pending.pop(rows.start, None)
                advance(rows.stop - rows.start)
                if self.processes.shows_others and time.monotonic() > looked + _PAUSE:
                    look()
                    looked = time.monotonic()
            pause = 0.02
            while pending:  # other processes compute them
                interrupts.check()
                time.sleep(pause)
                pause = min(1.5 * pause, _PAUSE)
                look()


def _telling(ahead: Callable[[slice], None] | None, batches: Iterator[slice]) -> Iterator[slice]:
    """The same batches; `ahead` is told each of them while the one before it is worked on."""
    if ahead is None:
        yield from batches
        return
    rows = next(batches, None)
    while rows is not None:
        following = next(batches, None)
        if following is not None:
            ahead(following)
        yield rows
        rows = following
