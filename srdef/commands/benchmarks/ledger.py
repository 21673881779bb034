"""Rows of a benchmark within limits of time; every figure is in a file the moment it is there.

Nothing can interrupt a compilation from within its process. So a row that runs over the limit is noted as
such when it comes back, and the rows after it are skipped; and if the process is killed, what it has found
is on disk.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srdef.batching import is_out_of_memory
from srdef.commands import cli
from srdef.commands.benchmarks import common
from srdef.commands.benchmarks.common import Run
from srdef.errors import InputError
from srdef.storage.files import for_json, write_atomically

# Calls after the first: no more are begun after so many seconds, however many repeats are wanted; nor after
# the row's share of what is left of --total.
LONGEST = 3.0

HEADER = [
    *("part", "row", "library", "arithmetic", "images", "first call (s)", "median (ms)"),
    *("ms an image", "÷ srdef", "floor ÷ time", "note"),
]


@dataclass(frozen=True)
class Row:
    """What is timed.

    Attributes
    ----------
    what, library, arithmetic : str
        Rows of the same name and arithmetic are compared between libraries.
    make : callable
        Gets ready, without being timed, and returns the call that is.
    images : int
        In one call.
    work : callable, optional
        What the result of a call has cost, as the names of srdef's rows in the same arithmetic and how often
        each would have to be called for it (`{"gradient": 10}`). Their medians add up to the floor.
    """

    what: str
    library: str
    arithmetic: str
    make: Callable[[], Run]
    images: int
    work: Callable[[Any], Mapping[str, float]] | None = None


class Ledger:
    """Times rows, and keeps the figures.

    Parameters
    ----------
    title : str
        Above the table, and in the first line of the file of figures.
    file : path or None
        Of the table, in Markdown, written anew after every row. Beside it, in `.jsonl`, one line of JSON is
        appended for each figure; a later line replaces an earlier one of the same part, row, library and
        arithmetic.
    limit : float
        Seconds of a part after which none of its rows is begun: of calls after the first, which may compile.
    total : float or None
        Seconds of everything, from now on, after which no row is begun; None: no limit.
    repeats : int
        Calls after the first; fewer where they take over 3 seconds together, more where they take less than
        `shortest`.
    shortest : float
        Seconds.
    rows : int
        All there will be, among whom what is left of the total is shared.
    clock : callable
        The time in seconds.

    Raises
    ------
    InputError
        If the file cannot be written.
    """

    def __init__(
        self,
        title: str,
        file: Path | None,
        *,
        limit: float,
        total: float | None,
        repeats: int,
        shortest: float,
        rows: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.records: list[dict[str, Any]] = []
        self._title, self._file = title, file
        self._limit, self._total, self._repeats, self._shortest = limit, total, repeats, shortest
        self._clock, self._start = clock, clock()
        self._left = rows
        self._said: set[str] = set()
        self._append({"title": title})

    def part(self, name: str, rows: Sequence[Row]) -> None:
        """Time the rows of one part, one after the other."""
        spent = 0.0
        skipped = []
        for row in rows:
            record: dict[str, Any] = {"part": name, "row": row.what, "library": row.library}
            record |= {"arithmetic": row.arithmetic, "images": row.images}
            self.records.append(record)
            if over := self._over(spent):
                record["note"] = f"skipped: {over}"
                self._append(record)
                skipped.append(row.what)
            else:
                spent += self._measure(row, record, spent)
            self._left -= 1
        if skipped:
            self._say(f"{name}: {self._over(spent)}, {len(skipped)} rows skipped: {', '.join(skipped)}")
        self._write()

    def median(self, what: str, arithmetic: str) -> float | None:
        """The median of srdef's row in seconds, if it has been timed."""
        for record in self.records:
            names = record["row"], record["library"], record["arithmetic"]
            if names == (what, "srdef", arithmetic) and "seconds" in record:
                return record["seconds"]
        return None

    def _over(self, spent: float) -> str:
        """Which limit is over; "": none."""
        if self._total is not None and self._clock() - self._start >= self._total:
            return f"the {self._total:g} s of --total are over"
        if spent >= self._limit:
            return f"the {self._limit:g} s of the part are over"
        return ""

    def _measure(self, row: Row, record: dict[str, Any], spent: float) -> float:
        """Time the row, `spent` seconds into its part; returns those of its calls after the first."""
        seconds: list[float] = []
        try:
            call = row.make()
            until = self._share()
            record["first_call"], result = self._timed(call)
            if row.work is not None:
                record["work"] = dict(row.work(result))
                record["floor"] = self._floor(record)
            del result
            self._append(record)
            while self._again(seconds, until) and not self._over(spent + sum(seconds)):
                seconds.append(self._timed(call)[0])
        except ImportError as error:
            record["note"] = f"not installed: {error.name or error}"
        except InputError as error:
            record["note"] = _out_of_memory(error) or f"skipped: {error}"
        except Exception as error:  # whatever one row comes to, the others are worth having
            record["note"] = _out_of_memory(error) or f"failed: {line_of(error)}"
        if seconds:
            record |= {"seconds": float(np.median(seconds)), "all_seconds": seconds}
        if (over := self._over(spent + sum(seconds))) and "note" not in record:
            record["note"] = f"ended late: {over}"
        self._append(record)
        self._write()
        self._tell(record)
        return sum(seconds)

    def _share(self) -> float:
        """When the row that begins now has had its share of what is left of the total."""
        if self._total is None:
            return np.inf
        now = self._clock()
        return now + (self._total - (now - self._start)) / max(self._left, 1)

    def _timed(self, call: Run) -> tuple[float, Any]:
        start = self._clock()
        result = jax.block_until_ready(call())
        return self._clock() - start, result

    def _again(self, seconds: list[float], until: float) -> bool:
        spent = sum(seconds)
        in_time = spent < LONGEST and self._clock() < until
        return not seconds or (in_time and (len(seconds) < self._repeats or spent < self._shortest))

    def _floor(self, record: dict[str, Any]) -> float | None:
        floor = 0.0
        for what, times in record["work"].items():
            median = self.median(what, record["arithmetic"])
            if median is None:
                return None
            floor += times * median
        return floor

    def _append(self, record: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            with self._file.with_suffix(".jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(for_json(record)) + "\n")
        except OSError as error:
            raise InputError(f"--write={self._file}: cannot be written ({error.strerror})") from None

    def _write(self) -> None:
        if self._file is not None:
            write_atomically(self._file, f"{self._title}\n\n{common.markdown(HEADER, self.table())}")

    def _tell(self, record: dict[str, Any]) -> None:
        note = record.get("note", "")
        if note.startswith("not installed"):
            self._say(f"{record['library']} is skipped: {note}")
            return
        cells = dict(zip(HEADER, self._cells(record), strict=True))
        figures = [f"{cells[name]} {unit}" for name, unit in _TOLD.items() if cells[name]]
        where = f"{record['part']:12} {record['row']:24} {record['library']:13} {record['arithmetic']:8}"
        self._say(f"{where} {', '.join([*figures, *([note] if note else [])])}")

    def _say(self, line: str) -> None:
        """Once: that a library is not installed holds for all its rows."""
        if line not in self._said:
            cli.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._said.add(line)

    def table(self) -> list[list[str]]:
        """The cells of the table."""
        return [self._cells(record) for record in self.records]

    def _cells(self, record: dict[str, Any]) -> list[str]:
        seconds, floor = record.get("seconds"), record.get("floor")
        ours = self.median(record["row"], record["arithmetic"])
        return [
            *(record["part"], record["row"], record["library"], record["arithmetic"], str(record["images"])),
            f"{record['first_call']:.2f}" if "first_call" in record else "",
            f"{1e3 * seconds:.2f}" if seconds is not None else "",
            f"{1e3 * seconds / record['images']:.3f}" if seconds is not None else "",
            f"{seconds / ours:.2f}" if seconds and ours and record["library"] != "srdef" else "",
            f"{floor / seconds:.2f}" if seconds and floor else "",
            record.get("note", "").replace("|", "/"),
        ]


# What is printed of a row as soon as it is done.
_TOLD = {
    "first call (s)": "s first",
    "median (ms)": "ms",
    "ms an image": "ms an image",
    "÷ srdef": "times srdef's",
    "floor ÷ time": "of the floor",
}


def _out_of_memory(error: Exception) -> str:
    """A note if that is what the error says, of JAX or PyTorch; else "".

    PyTorch's error is known by its name: it need not be installed.
    """
    lacking = isinstance(error, MemoryError) or is_out_of_memory(error)
    return "out of memory" if lacking or type(error).__name__ == "OutOfMemoryError" else ""


def line_of(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
