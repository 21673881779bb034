"""Class activation maps (Zhou et al. 2016): where a classifier sees what it says."""

import jax
import numpy as np

from srdef.batching import map_batches
from srdef.defenses.pixel_deflection import robust_activation_map
from srdef.errors import InputError
from srdef.programs import jit


@jit
def _maps(classifier: object, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The robust map of one class is the class activation map of the first guess, scaled to [0, 1].
    maps = jax.vmap(lambda image: robust_activation_map(classifier, image, classes=1))(images)
    return maps, classifier(images).argmax(axis=-1)  # type: ignore[operator]


def activation_maps(
    classifier: object, images: np.ndarray, *, batch_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The class activation map of each image's predicted class, and that class.

    The last feature map, weighted with the dense layer's weights for the class, enlarged to the image.

    Parameters
    ----------
    classifier : nnx.Module
        With `features` and the dense layer `classifier` after global average pooling.
    images : float array (N, H, W, 3)
        In [0, 1].
    batch_size : int, optional
        As for `attacks.perturb`.

    Returns
    -------
    maps : float32 array (N, H, W)
        Each scaled to [0, 1].
    predictions : integer array (N,)

    Raises
    ------
    InputError
        If the classifier does not end in a dense layer.
    """
    kernel = getattr(getattr(classifier, "classifier", None), "kernel", None)
    if not hasattr(classifier, "features") or kernel is None or kernel.ndim != 2:
        raise InputError(
            f"{type(classifier).__name__} has no dense layer after its last feature map, so no activation map"
        )
    return map_batches(_maps, (classifier,), (images,), batch_size=batch_size)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays of one shape; nan if one of them is constant."""
    if np.shape(a) != np.shape(b):
        raise InputError(f"arrays of the shapes {np.shape(a)} and {np.shape(b)} have no correlation")
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) if np.ptp(a) and np.ptp(b) else float("nan")
