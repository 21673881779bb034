"""How much memory a run needs: one line when it is known, and a warning as soon as it does not fit."""

from collections.abc import Sequence
from typing import Any

import jax

from srdef import memory
from srdef.errors import warn
from srdef.evaluation.progress import Reporter


class MemoryReport:
    """What the stages of a run need.

    Parameters
    ----------
    reporter : Reporter
        Prints the line.
    batch_size : int
    networks : pytree
        All that stays on the devices: classifiers and defenses.
    devices : sequence of devices, optional
        Default: all local ones.
    """

    def __init__(
        self, reporter: Reporter, batch_size: int, networks: Any, devices: Sequence[Any] | None = None
    ) -> None:
        self._reporter, self._batch_size = reporter, batch_size
        self._devices = jax.local_devices() if devices is None else devices
        self._limit = memory.limit(self._devices)
        self._on_host = self._devices[0].platform == "cpu"
        self._weights = memory.of_arrays(networks)
        self._most, self._which = 0, ""
        self._attacks = False
        self._told = 0
        self._warned = False

    def bound(self, left: int = 0) -> int:
        """The bytes on each device, or of this process on a CPU, that are not exceeded, as far as is known.

        On a CPU, what the process holds now, what a batch takes, and what comes later: among it the programs
        of `left` stages, which are not compiled yet.
        """
        if not self._on_host:
            return self._weights + self._most
        later = memory.LATER + left * memory.A_STAGE
        return max(memory.peak(), memory.resident() + self._batch + later)

    @property
    def _batch(self) -> int:
        """The bytes for a batch: on a CPU all devices share the memory of the host."""
        return self._most * (len(self._devices) if self._on_host else 1)

    def add(self, stage: tuple[str, ...], needed: int | None) -> None:
        """A stage needs so many bytes for a batch on each device; None or 0: it cannot be told."""
        self._attacks |= bool({"adversarial", "shares"} & {*stage})
        if needed is None or needed <= self._most:
            return
        self._most, self._which = needed, stage[-1]
        if not self._warned:
            self._warn()

    def tell(self, left: int = 0) -> None:
        """Print the line, unless that was said before; `left`: of so many stages it is not known yet.

        Twice at most: when an attack is among those that are known, and when all are.
        """
        if self._told == self._most or (left and (self._told or not self._attacks)):
            return
        self._told = self._most
        words = memory.in_words
        more = "; more is not compiled yet" if left else ""
        where = "" if self._on_host else " of each device"
        limit = f" of {words(self._limit)}" if self._limit else ""
        self._reporter.console.print(
            f"Memory{where}: at most about {words(self.bound(left))}{limit}, {words(self._batch)} of it for "
            f"batches of {self._batch_size} images ({self._which}){more}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _warn(self) -> None:
        """Say so if it will not fit, before hours of computing."""
        size, needed, devices = self._batch_size, self._most, self._devices
        found = memory.shortage(
            size, needed, devices, program=self._which, held=self._weights, multiple=len(devices)
        )
        if found:
            self._warned = True
            warn(found)
