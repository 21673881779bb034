"""Run a jitted batch function over any number of images: fixed batch size, sharded, with progress.

Every program is compiled once: the last batch is padded to the full size (by repeating its last
row) and the padding is cut off again. Batches are sharded over the `data` axis of a device mesh;
weights are replicated. As every image is computed on its own, neither changes a result, beyond the rounding
of sums.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srdef import interrupts
from srdef.errors import InputError, OutOfMemoryError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA has raised the error because the device has no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _out_of_memory(error: BaseException, size: int, devices: int) -> OutOfMemoryError:
    reason = " ".join(str(error).split())[:200].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")
    smaller = size // 2 // devices * devices
    advice = f"try batch_size={smaller}" if smaller else "smaller images or networks need less"
    return OutOfMemoryError(f"not enough memory for batches of {size} images ({reason}); {advice}")


def data_mesh(devices: list[Any] | None = None) -> Mesh:
    """A mesh with the one axis `data`, over `devices` (default: all local devices)."""
    return Mesh(np.array(devices if devices is not None else jax.local_devices()), ("data",))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put every array of `tree` on every device of `mesh`."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_each_device(
    function: Callable[..., Any], sharding: Any, shared: tuple[Any, ...], rows: tuple[Any, ...]
) -> Any:
    """`function(*shared, *rows)`, on every device with its own rows and nothing of the others'.

    Left to itself, XLA gathers a whole batch on every device for operations that it cannot cut, such as
    `top_k` and `fft`, and lets all devices wait for each other in every loop.

    Parameters
    ----------
    function : callable
        Returns arrays with one row per image.
    sharding : NamedSharding
        How the rows lie on the devices: along the axis `data`.
    shared : tuple of pytrees
        The same on all devices.
    rows : tuple of pytrees
        With one row per image in every array.
    """
    if len(sharding.device_set) == 1:
        return function(*shared, *rows)
    whole, cut = PartitionSpec(), PartitionSpec("data")
    specs = (*(whole for _ in shared), *(cut for _ in rows))
    mapped = jax.shard_map(function, mesh=sharding.mesh, in_specs=specs, out_specs=cut, check_vma=False)
    return mapped(*shared, *rows)


def abstract(shared: Any, rows: Any, batch_size: int, mesh: Mesh) -> tuple[Any, ...]:
    """The shapes, types and places of the arguments with which `map_batches` calls its function.

    Parameters
    ----------
    shared : tuple of pytrees
        The same for all batches.
    rows : tuple of pytrees
        With one row per image; how many rows these arrays have does not matter.
    batch_size : int
    mesh : Mesh
    """
    size = -(-batch_size // mesh.devices.size) * mesh.devices.size
    everywhere, cut = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def shape(leaf: Any, rows: int | None, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        leaf = leaf if hasattr(leaf, "dtype") else jax.numpy.asarray(leaf)
        whole = leaf.shape if rows is None else (rows, *leaf.shape[1:])
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(whole, leaf.dtype, sharding=sharding, weak_type=weak)

    return (
        *jax.tree.map(lambda leaf: shape(leaf, None, everywhere), shared),
        *jax.tree.map(lambda leaf: shape(leaf, size, cut), rows),
    )


def slices(count: int, batch_size: int) -> Iterator[slice]:
    """The slices that cut `count` items into batches; the last may be shorter."""
    for start in range(0, count, batch_size):
        yield slice(start, min(start + batch_size, count))


def pad_rows(rows: Any, count: int) -> Any:
    """Extend the first axis to `count` by repeating the last row."""
    missing = count - rows.shape[0]
    if missing == 0:
        return rows
    if jax.dtypes.issubdtype(rows.dtype, jax.dtypes.prng_key):
        return jax.numpy.concatenate([rows, jax.numpy.repeat(rows[-1:], missing, axis=0)])
    rows = np.asarray(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def map_batches(
    function: Callable[..., Any],
    shared: tuple[Any, ...],
    per_image: tuple[Any, ...],
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Call `function(*shared, *batch)` on consecutive batches and concatenate what it returns.

    Parameters
    ----------
    function : jitted function
        Its results are a pytree of arrays whose first axis is the batch.
    shared : tuple of pytrees
        Arguments that are the same for all batches (attack, victim, defense); replicated.
    per_image : tuple of arrays
        Arguments cut along their first axis; all of the same length.
    batch_size : int, optional
        Every batch has this size, rounded up to a multiple of the number of devices, also when
        there are fewer images, so that calls with one `batch_size` share one program. Default: all
        images in one batch.
    mesh : Mesh, optional
        Default: all local devices.
    progress : callable, optional
        Called with the number of images done after each batch.

    Returns
    -------
    pytree of numpy arrays

    Raises
    ------
    InputError
        If there are no images, or the arrays differ in length.
    OutOfMemoryError
        An InputError and MemoryError that proposes a smaller `batch_size`.
    """
    lengths = {rows.shape[0] for rows in per_image}
    if len(lengths) != 1:
        raise InputError(f"images, labels and ids must be of one length, not {sorted(lengths)}")
    (count,) = lengths
    if count == 0:
        raise InputError("there are no images")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    mesh = data_mesh() if mesh is None else mesh
    devices = mesh.devices.size
    size = -(-(batch_size or count) // devices) * devices
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    shared = replicate(shared, mesh)

    results = []
    for rows in slices(count, size):
        interrupts.check()
        try:
            batch = [jax.device_put(pad_rows(array[rows], size), sharding) for array in per_image]
            result = function(*shared, *batch)
            results.append(jax.tree.map(lambda x, n=rows.stop - rows.start: np.asarray(x)[:n], result))
        except jax.errors.JaxRuntimeError as error:
            if is_out_of_memory(error):
                raise _out_of_memory(error, size, devices) from error
            raise
        if progress is not None:
            progress(rows.stop - rows.start)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
