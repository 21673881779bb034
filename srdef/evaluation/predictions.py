"""What a classifier says of defended images."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef import batching, defenses, memory
from srdef.defenses.base import Defense, defend_batch
from srdef.errors import InputError, name_of, not_taken
from srdef.evaluation.experiment import Experiment
from srdef.keys import of_seed
from srdef.models.protocols import Classifier
from srdef.programs import jit
from srdef.storage.fingerprint import digest


@partial(jit, static_argnames="passes")
def _predict(
    classifier: Classifier,
    defense: Defense,
    key: jax.Array,
    batch: jax.Array,
    ids: jax.Array,
    *,
    passes: int,
) -> dict[str, jax.Array]:
    """What the classifier says of the defended images, on average over `passes` draws."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)

    def probabilities(index: jax.Array) -> jax.Array:
        draws = jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)
        return jax.nn.softmax(_logits(classifier, defense, defend_batch(defense, batch, draws)))

    if passes == 1:  # without the loop, in which XLA's CPU back end is slower
        average = probabilities(jnp.int32(0))
    else:  # one after the other, so that memory does not grow with their number
        average = jax.lax.map(probabilities, jnp.arange(passes)).mean(axis=0)
    return {"prediction": jnp.argmax(average, axis=-1).astype(jnp.int32), "confidence": average.max(axis=-1)}


def _logits(classifier: Classifier, defense: Defense, defended: jax.Array) -> jax.Array:
    """What the classifier says, which was asked about images of the data set's size before, not of others."""
    try:
        return classifier(defended)
    except InputError:
        raise
    except Exception as error:  # whatever a network raises for images that it does not take
        made = "" if isinstance(defense, defenses.Identity) else f", as {type(defense).__name__} makes them"
        raise not_taken(name_of(classifier), defended.shape[1:], error, made) from error


def classify(
    experiment: Experiment,
    defense: Defense,
    batch: np.ndarray,
    ids: np.ndarray,
    batch_size: int | None = None,
    passes: int = 1,
) -> dict[str, np.ndarray]:
    """Predict the classes of defended images, with confidences (the largest probability).

    A random defense may be applied `passes` times with other draws; the probabilities are averaged.
    """
    return batching.map_batches(
        partial(_predict, passes=passes),
        (experiment.classifier, defense, experiment.defense_key),
        (batch, ids.astype(np.uint32)),
        batch_size=batch_size,
    )


def precompile_prediction(
    experiment: Experiment, defense: Defense, shape: tuple[int, ...], batch_size: int, passes: int = 1
) -> int:
    """Compile what `classify` runs for images of the given shape (height, width, channels).

    Returns
    -------
    int
        The bytes that a batch needs on each device.
    """
    mesh = batching.data_mesh()
    rows = (np.zeros((1, *shape), np.float32), np.zeros(1, np.uint32))
    shared = (experiment.classifier, defense, experiment.defense_key)
    given = batching.abstract(shared, rows, batch_size, mesh)
    return memory.of_programs([_predict.lower(*given, passes=passes).compile()], given[-2])


def predict(
    classifier: Classifier, pixels: np.ndarray | jax.Array, batch_size: int | None = None
) -> np.ndarray:
    """Predict the classes `(N,)` of images `(N, H, W, 3)` without a defense."""
    ids = np.zeros(len(pixels), np.uint32)
    state = (classifier, defenses.Identity(), of_seed(0))  # which draws nothing
    found = batching.map_batches(partial(_predict, passes=1), state, (pixels, ids), batch_size=batch_size)
    return found["prediction"]


@jit
def _first_pass(defense: Defense, key: jax.Array, batch: jax.Array, ids: jax.Array) -> jax.Array:
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), 0))(ids)
    return defend_batch(defense, batch, keys)


def defended_images(
    experiment: Experiment,
    defense: Defense,
    batch: np.ndarray,
    ids: np.ndarray,
    batch_size: int | None = None,
    *,
    on_device: bool = False,
) -> Any:
    """Defend images with the draws that `classify` takes in its first pass.

    They stay on the devices with `on_device`, where a classifier takes them next.
    """
    return batching.map_batches(
        _first_pass,
        (defense, experiment.defense_key),
        (batch, ids.astype(np.uint32)),
        batch_size=batch_size,
        on_device=on_device,
    )


def precompile_defended(
    targets: Sequence[Experiment], defense: str, shape: tuple[int, ...], batch_size: int
) -> int:
    """Compile what `defended_images` and `predict` run for the same defense before several classifiers.

    Returns
    -------
    int
        The bytes that a batch needs on each device.
    """
    mesh = batching.data_mesh()
    rows = (np.zeros((1, *shape), np.float32), np.zeros(1, np.uint32))
    first_passes: dict[str, tuple[Any, Any]] = {}  # most defenses are the same for all targets
    most = 0
    for target in targets:
        transformation = target.defenses[defense]
        given = batching.abstract((transformation, target.defense_key), rows, batch_size, mesh)
        name = digest(transformation)
        if name not in first_passes:
            lowered = _first_pass.lower(*given)
            first_passes[name] = lowered.out_info, lowered.compile()
        shape_after, first_pass = first_passes[name]
        asked = (target.classifier, defenses.Identity(), of_seed(0))
        defended = batching.abstract(asked, (shape_after, rows[1]), batch_size, mesh)
        programs = [first_pass, _predict.lower(*defended, passes=1).compile()]
        most = max(most, memory.of_programs(programs, given[-2]))
    return most
