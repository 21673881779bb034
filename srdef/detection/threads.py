"""Several things at the same time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def side_by_side(tasks: Sequence[Callable[[], Any]], workers: int) -> list[Any]:
    """What the tasks return, `workers` of them at a time: XLA compiles their programs at the same time."""
    if workers == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda task: task(), tasks))
