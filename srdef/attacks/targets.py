"""Labels for targeted attacks: the classes that an evaluation tries to reach."""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.validation import check_choice, check_count, check_ids, check_images, check_key, check_labels
from srdef.victims import Undefended, Victim

TargetName = Literal["least_likely", "random", "second"]

# The draws of a random victim that choose are none that the attack sees, or that judge its result.
_CHOOSE = 0xFFFFFFFB


@partial(jax.jit, static_argnames="rank")
def _ranked(victim: Victim, key: jax.Array, images: jax.Array, ids: jax.Array, *, rank: int) -> jax.Array:
    """For each image the class of a rank, 0 the most likely."""

    def one(image: jax.Array, i: jax.Array) -> jax.Array:
        logits = victim(image, jax.random.fold_in(jax.random.fold_in(key, i), _CHOOSE))
        return jnp.argsort(-logits)[rank].astype(jnp.int32)

    return jax.vmap(one)(images, ids)


def _by_rank(
    classifier: Any, images: Any, rank: int, key: Any, ids: Any, batch_size: int | None
) -> np.ndarray:
    victim = classifier if isinstance(classifier, Victim) else Undefended(classifier)
    images, key = check_images(images), jax.random.key(0) if key is None else key
    check_key(key)
    program = partial(_ranked, rank=rank)
    rows = (images, check_ids(ids, len(images)))
    return map_batches(program, (victim, key), rows, batch_size=batch_size)


def least_likely(
    classifier: Any,
    images: np.ndarray | jax.Array,
    *,
    key: jax.Array | None = None,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """The class that the classifier holds least likely for each image: the hardest to reach.

    Kurakin et al. 2017 (arXiv:1607.02533), section 2.3.

    Parameters
    ----------
    classifier : classifier or Victim
    images : float array (N, height, width, 3)
    key : jax.random.key, optional
        For a random victim.
    ids, batch_size
        As for `attacks.perturb`.

    Returns
    -------
    int32 array (N,)
    """
    return _by_rank(classifier, images, -1, key, ids, batch_size)


def second(
    classifier: Any,
    images: np.ndarray | jax.Array,
    *,
    key: jax.Array | None = None,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """The class that the classifier holds second most likely for each image: the easiest to reach.

    Parameters and what is returned are those of `least_likely`.
    """
    return _by_rank(classifier, images, 1, key, ids, batch_size)


def random(
    labels: np.ndarray | jax.Array, num_classes: int, key: jax.Array, *, ids: np.ndarray | None = None
) -> np.ndarray:
    """For each image one of the other classes, each with the same probability.

    Parameters
    ----------
    labels : integer array (N,)
    num_classes : int
        At least 2.
    key : jax.random.key
    ids : integer array (N,), optional
        What identifies each image, so that its target does not depend on the others; default `arange(N)`.

    Returns
    -------
    int32 array (N,)
    """
    check_key(key)
    check_count("num_classes", num_classes)
    if num_classes < 2:
        raise InputError("num_classes must be at least 2: another class than the label")
    labels = np.asarray(labels)
    labels = check_labels(labels, labels.size, num_classes)

    def step(i: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, i), _CHOOSE)
        return jax.random.randint(own, (), 1, num_classes)

    steps = jax.vmap(step)(jnp.asarray(check_ids(ids, len(labels))))
    return ((labels + np.asarray(steps)) % num_classes).astype(np.int32)


def choose(
    name: TargetName,
    victim: Victim,
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    key: jax.Array,
    ids: np.ndarray,
    batch_size: int | None = None,
) -> np.ndarray:
    """The targets `(N,)` of that name, for images of these labels."""
    check_choice("targets", name, get_args(TargetName))
    if name == "random":
        return random(labels, classes, key, ids=ids)
    rank = {"least_likely": -1, "second": 1}[name]
    return _by_rank(victim, images, rank, key, ids, batch_size)
