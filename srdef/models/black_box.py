"""Classifiers that are asked and cannot be looked into: another library's, or behind a network."""

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError, name_of
from srdef.models.wrapped import Applied, Channels, NotLogitsError, Wrapped, from_function
from srdef.own_code.reach import reach_of
from srdef.programs import call_back
from srdef.validation import check_flags


class _BlackBox(Applied):
    """A function of NumPy arrays as one of JAX's, without a gradient.

    It runs whenever a program does, and so is never what it was when that was compiled.
    """

    def __init__(self, function: Callable[[np.ndarray], Any], probabilities: bool) -> None:
        self.function, self.probabilities = function, probabilities
        self._lock = threading.Lock()
        self._classes: dict[tuple[int, ...], int] = {}

    def __repr__(self) -> str:
        """Its name with a hash of what it holds: results that are kept for one must not serve another."""
        return f"{self.model_name} {self.probabilities} {' '.join(reach_of(self.function))}"

    def what_is_reached(self) -> Any:
        """For `reach_of`: not what was found on the way."""
        return self.function, self.probabilities

    def __call__(self, _: Any, images: jax.Array) -> jax.Array:
        return _call(self, images)

    @property
    def model_name(self) -> str:
        return name_of(self.function)

    def classes(self, shape: tuple[int, ...]) -> int:
        """How many there are for an image of this shape: the function is asked once for each."""
        if shape not in self._classes:
            try:
                self._classes[shape] = self.logits(np.full((2, *shape), 0.5, np.float32)).shape[-1]
            except jax.errors.JAXTypeError:  # what it computes is traced
                raise NotLogitsError(
                    f"{self.model_name} uses JAX, which a black box must not: give it to models.from_function"
                ) from None
        return self._classes[shape]

    def logits(self, images: Any) -> np.ndarray:
        """Of images `(..., height, width, channels)`, or with their channels first."""
        images = np.asarray(images)
        count = math.prod(images.shape[:-3])
        with self._lock:  # JAX may ask from several threads
            scores = np.asarray(self.function(images.reshape(count, *images.shape[-3:])))
        if scores.ndim != 2 or len(scores) != count or scores.dtype.kind not in "fiub":
            raise NotLogitsError(
                f"{self.model_name} must return scores (N, num_classes), not an array of {scores.dtype} "
                f"{scores.shape} for {count} images"
            )
        scores = scores.astype(np.float32)
        if self.probabilities:
            if not (scores >= 0).all() or not (scores <= 1).all():
                raise InputError(f"{self.model_name}: probabilities must lie in [0, 1]")
            scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        return scores.reshape(*images.shape[:-3], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _call(box: _BlackBox, images: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct((images.shape[0], box.classes(images.shape[1:])), jnp.float32)
    return call_back(box.logits, shape, images.astype(jnp.float32), vmap_method="expand_dims")


def _forward(box: _BlackBox, images: jax.Array) -> tuple[jax.Array, None]:
    return _call(box, images), None


def _backward(box: _BlackBox, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    raise InputError(
        f"{box.model_name} is a black box, which has no gradient: attack victims.EstimatedGradient(victim), "
        "or take an attack that asks for none, as spsa, square or hop_skip_jump"
    )


_call.defvjp(_forward, _backward)


def from_black_box(
    function: Callable[[np.ndarray], Any],
    *,
    probabilities: bool = False,
    num_classes: int | None = None,
    mean: Channels = 0.0,
    std: Channels = 1.0,
    bounds: tuple[float, float] = (0.0, 1.0),
    channels_first: bool = False,
    image_size: int | None = None,
) -> Wrapped:
    """Make a classifier of a function that is only asked: scikit-learn's, ONNX Runtime's, or a server's.

    It has no gradient, and attacks that take one say so. Attacks that ask for scores or predictions work
    (`spsa`, `square`, `simba`, `hop_skip_jump`), and every other one on `victims.EstimatedGradient`.

    Parameters
    ----------
    function : callable
        Maps a float32 NumPy array `(N, height, width, channels)` in [0, 1] to scores `(N, num_classes)`. It
        is called with one or more images, one call after the other, and must not use JAX. Its answers depend
        on the images alone: compiled programs may ask less often than they are told to. What it raises ends
        the call with all its answers, so a server's should try again by itself.
    probabilities : bool
        Whether it returns probabilities, of which the logarithm is taken.
    num_classes : int, optional
        Default: found by asking once for each size of image.
    mean, std, bounds, channels_first, image_size
        As for `from_function`.

    Raises
    ------
    InputError
        If the function does not return scores `(N, num_classes)`, and as `from_function`.
    """
    if not callable(function):
        raise InputError(f"from_black_box needs a function of images, not {type(function).__name__}")
    check_flags(probabilities=probabilities)
    return from_function(
        _BlackBox(function, probabilities),
        (),
        num_classes=num_classes,
        mean=mean,
        std=std,
        bounds=bounds,
        channels_first=channels_first,
        image_size=image_size,
    )
