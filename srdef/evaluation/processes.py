"""What a run knows of the other processes that do it too: which batches are its own.

The store in the common workdir is the only state of a run, with many processes as with one: each takes
batches that nobody else has, computes them on its own devices, writes their chunks and done-flags, and goes
on when no batch of the store is missing. As every image is computed on its own, no array travels between
processes. `srdef.evaluation.meeting` brings several processes together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from srdef.evaluation.links import Place
from srdef.storage.memory import Store
from srdef.storage.store import exclusive


class Processes:
    """All processes of a run; this one is alone.

    Attributes
    ----------
    index, count : int
        Which of the processes this one is, from 0, and how many there are.
    place : Place, optional
        Where they meet; None for one process alone.
    """

    index = 0
    count = 1
    place: Place | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that shows progress and writes what the run leaves."""
        return self.index == 0

    @property
    def shows_others(self) -> bool:
        """Whether this process shows the progress of others."""
        return self.first and self.count > 1

    @contextmanager
    def hold(self, workdir: Path) -> Iterator[None]:
        """Keep every other run out of `workdir`, as `srdef.storage.store.exclusive` does, for all processes.

        Raises
        ------
        InputError
            If the folder cannot be written to, or another run holds it.
        """
        with exclusive(workdir):
            yield

    def share(self, store: Store, missing: Sequence[slice]) -> Iterator[slice]:
        """The batches of `store` that this process computes, one after the other, among the missing ones.

        Every process asks for its next batch when it is done with one, so that no process waits for a slower
        one until the last batch.
        """
        yield from missing

    def divide(self, name: str, count: int) -> Iterator[int]:
        """The pieces of other work that this process does, of those numbered from 0 to `count - 1`."""
        yield from range(count)

    def agree(self, decide: Callable[[], int]) -> int:
        """The number that process 0 decides on, for all; every process calls it, holding the workdir."""
        return decide()

    def finish(self) -> None:
        """Tell the others that this process has nothing left to compute; process 0 waits for all."""


ALONE = Processes()
