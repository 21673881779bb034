"""What all attacks share: the protocol, the registry, and `perturb`, which runs one over a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.registry import Registry
from srdef.victims import Victim

REGISTRY = Registry("attack")

Scalar = float | jax.Array | np.ndarray
Storage = Literal["float32", "uint8"]

# Values that leave [0, 1] by no more than this are rounding errors of the caller, and clipped.
RANGE_TOLERANCE = 1e-6

# The draws with which a random victim is judged must not be those the attack has seen.
_JUDGE = 0xFFFFFFFF


class Attack(Protocol):
    """A function of one victim and one image: a frozen pytree dataclass.

    The numbers that a sweep varies are its leaves, each a scalar (or, for `perturb`, an array with
    one value per image); what changes the program is static.
    """

    @property
    def targeted(self) -> bool:
        """Whether the label is the class to reach instead of the class to leave."""
        ...

    def __call__(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        """The attacked image `(height, width, 3)`, in [0, 1] like the given one."""
        ...

    def round(
        self, victim: Victim, image: jax.Array, attacked: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The attacked image in multiples of 1/255, still within what the attack promises."""
        ...


@struct.dataclass
class AttackResult:
    """What `perturb` returns, one row per image.

    Attributes
    ----------
    images : float32 array (N, height, width, 3)
        The attacked images, in [0, 1]; multiples of 1/255 when stored as uint8.
    success : bool array (N,)
        Whether the victim's prediction on exactly these images differs from the label (or equals
        it, for a targeted attack).
    linf, l2 : float32 arrays (N,)
        Distances between the attacked and the given images, in units of the [0, 1] range.
    """

    images: Any
    success: Any
    linf: Any
    l2: Any


def fulfilled(attack: Attack, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether logits `(..., classes)` show what the attack aims at, given labels `(...)`."""
    hit = jnp.argmax(logits, axis=-1) == label
    return hit if attack.targeted else ~hit


@partial(jax.jit, static_argnames="storage")
def _perturb(
    attack: Attack,
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    storage: Storage,
) -> AttackResult:
    """`perturb` for one batch; every leaf of `attack` has one row per image."""

    def one(attack: Attack, image: jax.Array, label: jax.Array, image_id: jax.Array) -> AttackResult:
        image_key = jax.random.fold_in(key, image_id)
        attacked = attack(victim, image, label, image_key)
        judge = jax.random.fold_in(image_key, _JUDGE)
        if storage == "uint8":
            attacked = attack.round(victim, image, attacked, label, judge)
        success = fulfilled(attack, victim(attacked, judge), label)
        difference = attacked - image
        return AttackResult(attacked, success, jnp.abs(difference).max(), jnp.linalg.norm(difference.ravel()))

    return jax.vmap(one)(attack, images, labels, ids)


def perturb(
    attack: Attack,
    victim: Victim,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    storage: Storage = "float32",
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> AttackResult:
    """Attack every image of a batch on its own: vmapped, compiled once, sharded over the devices.

    Parameters
    ----------
    attack : Attack
        Its leaves may be scalars or arrays with one value per image (an array of ε, say); either
        way a sweep over their values compiles once.
    victim : Victim
        What is attacked.
    images : float array (N, height, width, 3)
        In [0, 1]; at most 1e-6 outside, which is clipped.
    labels : integer array (N,)
        The classes to leave; for a targeted attack the classes to reach.
    key : jax.random.key
        The key of image i is `fold_in(key, ids[i])`, so a result depends neither on the batch nor
        on the order.
    ids : integer array (N,), optional
        What identifies each image; default `arange(N)`.
    batch_size : int, optional
        Default: all images at once.
    storage : "float32" or "uint8"
        Whether the attacked images are returned as computed, or rounded to what an 8-bit file
        would hold. Success and distances are those of exactly what is returned.
    mesh : Mesh, optional
        The devices to use; default: all local ones.
    progress : callable, optional
        Called with the number of images done after each batch.

    Returns
    -------
    AttackResult
        NumPy arrays.

    Raises
    ------
    InputError
        For images, labels, ids, leaves of the attack or a key of the wrong kind, shape or range.
    """
    if storage not in get_args(Storage):
        raise InputError(f"unknown storage {storage!r}; choose from: {', '.join(get_args(Storage))}")
    images = check_images(images)
    count = len(images)
    labels = check_labels(labels, count, victim.num_classes)
    ids = check_ids(ids, count)
    check_key(key)
    leaves, structure = jax.tree.flatten(attack)
    rows = tuple(_one_row_per_image(leaf, count) for leaf in leaves)

    def batch(
        victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array, *rows: jax.Array
    ) -> AttackResult:
        attack = jax.tree.unflatten(structure, rows)
        return _perturb(attack, victim, key, images, labels, ids, storage=storage)

    return map_batches(
        batch,
        (victim, key),
        (images, labels, ids, *rows),
        batch_size=batch_size,
        mesh=mesh,
        progress=progress,
    )


def _one_row_per_image(leaf: Any, count: int) -> np.ndarray:
    """A hyper-parameter as a float32 array `(count,)`."""
    values = np.asarray(leaf, np.float32)
    if values.shape not in ((), (count,)):
        raise InputError(
            f"a number of the attack must be a scalar or one value per image ({count},), not {values.shape}"
        )
    return np.broadcast_to(values, (count,))


def check_images(images: Any) -> np.ndarray:
    """Images `(N, height, width, 3)` as float32 in [0, 1]; InputError names what is wrong."""
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        raise InputError(f"images must be floats in [0, 1], not {images.dtype}; divide 8-bit images by 255")
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"images must have the shape (N, height, width, 3), not {images.shape}")
    if len(images) == 0:
        raise InputError("there are no images")
    images = images.astype(np.float32)
    # NaN fails both comparisons.
    good = (images >= -RANGE_TOLERANCE) & (images <= 1 + RANGE_TOLERANCE)
    if not good.all():
        index = int(np.argmin(good.all(axis=(1, 2, 3))))
        value = images[index][~good[index]][0]
        raise InputError(f"images must lie in [0, 1]; image {index} holds {value}")
    return np.clip(images, 0, 1)


def check_labels(labels: Any, count: int, num_classes: int) -> np.ndarray:
    """Labels `(count,)` as int32 below `num_classes`; InputError names the first bad one."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be integers, not {labels.dtype}")
    if labels.shape != (count,):
        raise InputError(f"labels must have the shape ({count},), one per image, not {labels.shape}")
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        index = int(np.argmax(bad))
        raise InputError(f"label {labels[index]} of image {index} is outside the classes 0 to {num_classes - 1}")
    return labels.astype(np.int32)


def check_ids(ids: Any, count: int) -> np.ndarray:
    """Ids `(count,)` as uint32 (default 0, 1, ...); InputError if they are not integers in range."""
    ids = np.arange(count) if ids is None else np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer) or ids.shape != (count,):
        raise InputError(f"ids must be {count} integers, not {ids.dtype} of shape {ids.shape}")
    if (ids < 0).any() or (ids >= 2**32).any():
        raise InputError(f"ids must lie in [0, 2**32), not {ids.min()} to {ids.max()}")
    return ids.astype(np.uint32)


def check_key(key: Any) -> None:
    """InputError if `key` is not one typed key."""
    if not isinstance(key, jax.Array) or not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise InputError(f"key must be made with jax.random.key(seed), not {type(key).__name__}")
    if key.shape != ():
        raise InputError(f"key must be a single key, not an array of shape {key.shape}")
