"""Labels for targeted attacks: the classes that an evaluation tries to reach."""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.keys import check_key, of_seed
from srdef.programs import jit
from srdef.validation import (
    check_choice,
    check_count,
    check_ids,
    check_images,
    check_labels,
    check_not_traced,
)
from srdef.victims import Undefended, Victim, check_victim

TargetName = Literal["least_likely", "random", "second"]

# The draws of a random victim that choose are none that the attack sees, or that judge its result.
_CHOOSE = 0xFFFFFFFB


@partial(jit, static_argnames="likeliest")
def _extreme(
    victim: Victim, key: jax.Array, images: jax.Array, ids: jax.Array, labels: jax.Array, *, likeliest: bool
) -> jax.Array:
    """For each image the most or least likely class but its label; a label below 0 is the predicted class."""

    def one(image: jax.Array, i: jax.Array, label: jax.Array) -> jax.Array:
        logits = victim(image, jax.random.fold_in(jax.random.fold_in(key, i), _CHOOSE))
        label = jnp.where(label < 0, jnp.argmax(logits), label)
        other = jnp.arange(len(logits)) != label
        if likeliest:
            return jnp.argmax(jnp.where(other, logits, -jnp.inf)).astype(jnp.int32)
        # A logit of -inf is that of a class which can never be reached.
        return jnp.argmin(jnp.where(other & (logits > -jnp.inf), logits, jnp.inf)).astype(jnp.int32)

    return jax.vmap(one)(images, ids, labels)


def _chosen(
    likeliest: bool, classifier: Any, images: Any, labels: Any, key: Any, ids: Any, batch_size: int | None
) -> np.ndarray:
    check_not_traced("a target", "victim(image, key)", classifier, images, labels, key, ids)
    victim = classifier if isinstance(classifier, Victim) else Undefended(classifier)
    images, key = check_images(images), of_seed(0) if key is None else check_key(key)
    classes = check_victim(victim, images.shape[1:])  # at least two
    labels = np.full(len(images), -1) if labels is None else check_labels(labels, len(images), classes)
    program = partial(_extreme, likeliest=likeliest)
    rows = (images, check_ids(ids, len(images)), labels)
    return map_batches(program, (victim, key), rows, batch_size=batch_size)


def least_likely(
    classifier: Any,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array | None = None,
    *,
    key: jax.Array | None = None,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """The class that the classifier holds least likely for each image, but its label: the hardest to reach.

    Kurakin et al. 2017 (arXiv:1607.02533), section 2.3.

    Parameters
    ----------
    classifier : classifier or Victim
    images : float array (N, height, width, 3)
    labels : integer array (N,), optional
        The images' own, which are no targets; default: the predicted classes.
    key : jax.random.key, optional
        For a random victim.
    ids, batch_size
        As for `attacks.perturb`.

    Returns
    -------
    int32 array (N,)
    """
    return _chosen(False, classifier, images, labels, key, ids, batch_size)


def second(
    classifier: Any,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array | None = None,
    *,
    key: jax.Array | None = None,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """The class that the classifier holds most likely for each image, but its label: the easiest to reach.

    Parameters and what is returned are those of `least_likely`.
    """
    return _chosen(True, classifier, images, labels, key, ids, batch_size)


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
    check_not_traced("a target drawn at random", "jax.random.randint", labels, key, ids)
    key = check_key(key)
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
    images: np.ndarray | jax.Array,
    labels: np.ndarray,
    classes: int,
    *,
    key: jax.Array,
    ids: np.ndarray,
    batch_size: int | None = None,
) -> np.ndarray:
    """The targets `(N,)` of that name, for images of these labels."""
    if not isinstance(name, str):
        raise InputError(
            f"targets must be one of {', '.join(get_args(TargetName))}; classes of your own to reach are the "
            "labels of a targeted attack"
        )
    check_choice("targets", name, get_args(TargetName))
    if name == "random":
        return random(labels, classes, key, ids=ids)
    return _chosen(name == "second", victim, images, labels, key, ids, batch_size)
