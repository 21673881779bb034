"""One training on the devices of all processes: what each of them holds, and what all must agree upon.

Every process runs the same steps on its own rows of the batch, and has all weights; the gradients are summed
over all devices by the compiled step. Whatever decides what is run next must be the same in all of them, or
they would wait for one another for ever.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


def first() -> bool:
    """Whether this process is the one that reads checkpoints and writes files."""
    return jax.process_index() == 0


def agreed(value: Any) -> Any:
    """The numbers of process 0, in every process; all call it at the same point.

    Parameters
    ----------
    value : pytree of numbers or arrays
        Of the same structure, shapes and types in all processes.
    """
    return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(value)


def local(tree: Any) -> Any:
    """Arrays that every device has whole, as this process can use them alone."""
    return tree if jax.process_count() == 1 else jax.tree.map(lambda a: a.addressable_data(0), tree)


def on_host(tree: Any) -> Any:
    """Arrays of this process that may go to all devices: from the host if there are other processes."""
    return tree if jax.process_count() == 1 else jax.tree.map(np.asarray, tree)


def own_rows(sharding: NamedSharding, count: int) -> range:
    """Which of the `count` rows of a batch lie on the devices of this process."""
    places = sharding.addressable_devices_indices_map((count,)).values()
    cuts = [cut.indices(count) for (cut,) in (place for place in places if place is not None)]
    return range(min(start for start, _, _ in cuts), max(stop for _, stop, _ in cuts))
