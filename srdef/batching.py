"""Run a jitted batch function over any number of images: fixed batch size, sharded, with progress.

Every program is compiled once: the last batch is padded to the full size by repeating its last row. Batches
are sharded over the `data` axis of a device mesh; weights are replicated. That changes rounding at most.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srdef import interrupts
from srdef.errors import InputError, OutOfMemoryError
from srdef.own_code.edits import notice_edits, watched
from srdef.programs import FAILED, raise_own
from srdef.validation import check_count

# Batches whose size nobody has chosen, on each device: at most so many images of so many numbers. 27 images
# of 224 x 224 x 3 on a CPU, where more gain nothing, and 222 elsewhere; a gradient holds much more than them.
_IMAGES = 1024
_NUMBERS_ON_CPU = 2**22
_NUMBERS = 2**25


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


def sharding_of_rows(mesh: Mesh) -> NamedSharding:
    """How a batch lies on the devices of `mesh`: cut along its rows.

    On one device that is no other than an array that is the same on all devices, and has its name: XLA does
    not keep two names apart there, so a loop over a program would compile it for results with either.
    """
    return NamedSharding(mesh, PartitionSpec("data") if mesh.devices.size > 1 else PartitionSpec())


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
    everywhere, cut = NamedSharding(mesh, PartitionSpec()), sharding_of_rows(mesh)

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
    if isinstance(rows, jax.Array):  # and stays where it is
        return jnp.concatenate([rows, jnp.repeat(rows[-1:], missing, axis=0)])
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def settled_batch_size(
    batch_size: int | None, count: int, shape: tuple[int, ...], mesh: Mesh | None = None
) -> int:
    """A batch size that was given; where none was, all images together if they are few, else equal batches.

    Parameters
    ----------
    batch_size : int, optional
    count, shape
        How many images there are, and what shape one has.
    mesh : Mesh, optional
        The devices that share a batch; default: all local ones.

    Raises
    ------
    InputError
        If it is no number of at least 1.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
        return batch_size
    devices = (data_mesh() if mesh is None else mesh).devices
    numbers = _NUMBERS_ON_CPU if devices.flat[0].platform == "cpu" else _NUMBERS
    most = devices.size * min(max(numbers // max(math.prod(shape), 1), 1), _IMAGES)
    return -(-count // max(-(-count // most), 1))


class _OnHost:
    """Gathers the results of batches in the host's memory, while the device goes on.

    Of several batches each is copied to its place among the others. Of a single one the copy is kept that
    came from the device: it is read-only.
    """

    def __init__(self, count: int, given: tuple[Any, ...]) -> None:
        self._count, self._given = count, given
        self._result: Any = None

    @staticmethod
    def announce(result: Any) -> None:
        """Let the copies begin as soon as the device has computed what they are of."""
        for leaf in jax.tree.leaves(result):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()

    def add(self, rows: slice, result: Any) -> None:
        """The results of the next batch; rows beyond those are padding."""
        parts = jax.tree.map(lambda x: np.asarray(x)[: rows.stop - rows.start], result)
        if rows == slice(0, self._count):
            self._result = jax.tree.map(self._own, parts)
            return
        if self._result is None:
            self._result = jax.tree.map(lambda x: np.empty((self._count, *x.shape[1:]), x.dtype), parts)
        for whole, part in zip(jax.tree.leaves(self._result), jax.tree.leaves(parts), strict=True):
            whole[rows] = part

    def _own(self, array: np.ndarray) -> np.ndarray:
        """A copy of what a CPU only hands through: the caller's arrays may change."""
        handed = any(
            isinstance(rows, np.ndarray) and np.may_share_memory(array, rows) for rows in self._given
        )
        return array.copy() if handed else array

    def get(self) -> Any:
        """All that was added."""
        return self._result


class _OnDevice:
    """Gathers the results of batches on the devices."""

    def __init__(self) -> None:
        self._parts: list[Any] = []

    @staticmethod
    def announce(result: Any) -> None:
        """Nothing is copied."""

    def add(self, rows: slice, result: Any) -> None:
        """The results of the next batch; rows beyond those are padding."""
        count = rows.stop - rows.start
        self._parts.append(jax.tree.map(lambda x: x if len(x) == count else x[:count], result))

    def get(self) -> Any:
        """All that was added."""
        if len(self._parts) == 1:
            return self._parts[0]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *self._parts)


@watched
def map_batches(
    function: Callable[..., Any],
    shared: tuple[Any, ...],
    per_image: tuple[Any, ...],
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
    on_device: bool = False,
) -> Any:
    """Call `function(*shared, *batch)` on consecutive batches and concatenate what it returns.

    The results of a batch are copied to the host while the next is computed; only these two are on devices.

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
        there are fewer images, so that calls with one `batch_size` share one program. Default:
        see `settled_batch_size`.
    mesh : Mesh, optional
        Default: all local devices.
    progress : callable, optional
        Called with the number of images of each batch after `function` has returned: the device may still
        compute, except with the last one.
    on_device : bool
        Whether all results stay on the devices.

    Returns
    -------
    pytree of numpy arrays, or of jax arrays
        NumPy arrays of a single batch are read-only.

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
    if not (count := lengths.pop()):
        raise InputError("there are no images")
    notice_edits(*shared)
    mesh = data_mesh() if mesh is None else mesh
    devices = mesh.devices.size
    largest = max((rows.shape[1:] for rows in per_image), key=math.prod)
    size = -(-settled_batch_size(batch_size, count, largest, mesh) // devices) * devices
    sharding = sharding_of_rows(mesh)
    shared = replicate(shared, mesh)

    gathered = _OnDevice() if on_device else _OnHost(count, per_image)
    before: tuple[slice, Any] | None = None
    for rows in slices(count, size):
        interrupts.check()
        try:
            batch = jax.device_put([pad_rows(array[rows], size) for array in per_image], sharding)
            result = function(*shared, *batch)
            gathered.announce(result)
            if before is not None:
                gathered.add(*before)
            before = rows, result
            if rows.stop == count:
                gathered.add(*before)
        except FAILED as error:
            if is_out_of_memory(error):
                raise _out_of_memory(error, size, devices) from error
            raise_own(error)
            raise
        if progress is not None:
            progress(rows.stop - rows.start)
    return gathered.get()
