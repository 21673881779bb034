"""What a classifier computes on its way: the last hidden layer, and feature maps by name."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.models.protocols import Classifier
from srdef.programs import jit


@jit
def _last_hidden(classifier: Classifier, images: jax.Array) -> jax.Array:
    return jnp.mean(classifier.features(images), axis=(1, 2))


# Jitted, so that the blocks after the named one are never computed.
@partial(jit, static_argnames="name")
def _endpoint(classifier: Any, images: jax.Array, *, name: str) -> jax.Array:
    return classifier.endpoints(images)[name]


def last_hidden_layer(
    classifier: Classifier, images: np.ndarray, *, batch_size: int | None = None
) -> np.ndarray:
    """The globally averaged last feature map: what the classifier's dense layer sees.

    Parameters
    ----------
    classifier : Classifier
    images : float array (N, H, W, 3)
        In [0, 1].
    batch_size : int, optional
        As for `attacks.perturb`.

    Returns
    -------
    float32 array (N, C)
    """
    return map_batches(_last_hidden, (classifier,), (images,), batch_size=batch_size)


def endpoint_shapes(classifier: Any, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The names of a classifier's feature maps, and their shapes `(h, w, C)` for one image `(H, W, 3)`.

    Raises
    ------
    InputError
        If the classifier names none.
    """
    if not hasattr(classifier, "endpoints"):
        raise InputError(f"{type(classifier).__name__} has no named feature maps")
    batch = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    names: list[str] = []

    def trace(network: Any, images: jax.Array) -> list[jax.Array]:
        maps = network.endpoints(images)
        names[:] = maps  # a dictionary comes out of JAX sorted, and the order says which is deeper
        return list(maps.values())

    maps = nnx.eval_shape(trace, classifier, batch)
    return {name: tuple(value.shape[1:]) for name, value in zip(names, maps, strict=True)}


def feature_maps(
    classifier: Any, images: np.ndarray, name: str, *, batch_size: int | None = None
) -> np.ndarray:
    """The feature map that the classifier calls `name`, for a batch.

    Parameters
    ----------
    classifier : nnx.Module
        With `endpoints`, as all of srdef's classifiers.
    images : float array (N, H, W, 3)
        In [0, 1].
    name : str
        One of `endpoint_shapes(...)`: `block4` of an EfficientNet-Lite, `res_3` of a ResNet.
    batch_size : int, optional
        As for `attacks.perturb`.

    Returns
    -------
    float32 array (N, h, w, C)

    Raises
    ------
    InputError
        For an unknown name.
    """
    known = endpoint_shapes(classifier, images.shape[1:])
    if name not in known:
        raise InputError(f"unknown feature map {name!r}; choose from: {', '.join(known)}")
    function = partial(_endpoint, name=name)
    return map_batches(function, (classifier,), (images,), batch_size=batch_size)


def relative_distance(values: np.ndarray, reference: np.ndarray) -> float:
    """The median over rows `(N, D)` of `|values - reference| / |reference|`; InputError for other shapes."""
    if values.shape != reference.shape or values.ndim != 2:
        raise InputError(f"values have the shape {values.shape} and the reference {reference.shape}")
    norms = np.linalg.norm(reference, axis=1)
    return float(np.median(np.linalg.norm(values - reference, axis=1) / np.maximum(norms, 1e-12)))


def nearest_distance(points: np.ndarray) -> float:
    """The median over points `(N, D)` of the distance to the nearest other one, relative to its length."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(axis=1) / np.maximum(np.linalg.norm(points, axis=1), 1e-12)))
