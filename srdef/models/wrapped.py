"""Classifiers that are functions and their parameters.

A classifier of srdef maps images `(N, height, width, channels)` in [0, 1] to logits `(N, num_classes)` and
knows how many classes it has. `Wrapped` makes one of a function and its parameters; the weights stay
arguments of every compiled program, so that programs are shared and nothing is copied into them. What is no
argument is compared: a program serves another model only if it would compute the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.errors import InputError, name_of
from srdef.own_code.reach import Reach, reach_of
from srdef.programs import jit
from srdef.validation import check_count, check_flags

Channels = float | Sequence[float]


class NotLogitsError(InputError):
    """A model returns something else than logits `(N, num_classes)`, whatever the size of its images."""


# Sizes and channels with which a model is tried when nothing says what it takes.
_SIZES = (224, 32, 28, 299, 64, 96, 128, 160, 8, 16)
_CHANNELS = (3, 1)


@struct.dataclass
class Wrapped:
    """A function of images and its parameters, as a classifier.

    Parameters
    ----------
    parameters : pytree
        What `apply` takes first.
    mean, std : array (channels,) or scalar
        Images become `(low + image * (high - low) - mean) / std` before `apply` sees them.
    apply : callable
        Maps parameters and images to logits.
    num_classes : int or None
        None where it is not known before the model has seen the size of its images.
    bounds : tuple of float
        The value range (low, high) that the model was trained on, before `mean` and `std`.
    channels_first : bool
        Whether the model takes `(N, channels, height, width)`.
    image_size : int, optional
        The side that images are read at for the model. Others are given to it as they are: a defense may
        enlarge them.
    """

    parameters: Any
    mean: Any
    std: Any
    apply: Callable[[Any, jax.Array], jax.Array] = struct.field(pytree_node=False)
    num_classes: int | None = struct.field(pytree_node=False)
    bounds: tuple[float, float] = struct.field(pytree_node=False, default=(0.0, 1.0))
    channels_first: bool = struct.field(pytree_node=False, default=False)
    image_size: int | None = struct.field(pytree_node=False, default=None)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The logits `(N, num_classes)` of images `(N, height, width, channels)` in [0, 1]."""
        return self.apply(self.parameters, self.preprocess(images))

    @property
    def model_name(self) -> str:
        """The class of what was wrapped, or the name of a function."""
        return getattr(self.apply, "model_name", "") or type(self.parameters).__name__

    def check(self) -> None:
        """Raise InputError if the model is not any more what was wrapped.

        A compiled program has what is no parameter in it, as it was then.
        """
        if any(
            isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(self.parameters)
        ):
            raise InputError(
                "the wrapped weights have been given away, in training perhaps; wrap the model again"
            )
        if isinstance(self.apply, Applied):
            self.apply.check(self.parameters)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """The images as the model takes them."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            own, given = np.size(values), images.shape[-1]
            if own not in (1, given):
                raise InputError(f"the model's {name} has {own} channels, the images have {given}")
        low, high = self.bounds
        if (low, high) != (0, 1):
            images = low + images * (high - low)
        images = (images - self.mean) / self.std
        return jnp.moveaxis(images, -1, 1) if self.channels_first else images


def from_function(
    apply: Callable[..., jax.Array],
    parameters: Any = None,
    *,
    num_classes: int | None = None,
    mean: Channels = 0.0,
    std: Channels = 1.0,
    bounds: tuple[float, float] = (0.0, 1.0),
    channels_first: bool = False,
    image_size: int | None = None,
) -> Wrapped:
    """Make a classifier of a JAX function.

    Parameters
    ----------
    apply : callable
        `apply(parameters, images)`, or `apply(images)` if no parameters are given, returns logits
        `(N, num_classes)`. Give the weights as `parameters`: a function that closes over them has them copied
        into every program that is compiled, and has to be wrapped again when they have changed.
    parameters : pytree, optional
    num_classes : int, optional
        Default: found by an evaluation of shapes, which computes nothing: here for models that take one of
        the usual sizes, for others when they are attacked.
    mean, std : float or sequence of float
        What the model's authors subtract and divide by, after `bounds`.
    bounds : (low, high)
        The value range of the images before that: `(0, 255)` for models that take levels.
    channels_first : bool
        Whether `apply` takes `(N, channels, height, width)`.
    image_size : int, optional
        The side that images are read at for the model, if it has one. Others are given to it as they are.

    Returns
    -------
    Wrapped

    Raises
    ------
    InputError
        If the function does not return logits `(N, num_classes)`, or an option is none that a model can have.
    """
    if not callable(apply):
        raise InputError(f"from_function needs a function of images, not {type(apply).__name__}")
    low, high = _bounds(bounds)
    for name, value in (("num_classes", num_classes), ("image_size", image_size)):
        if value is not None:
            check_count(name, value)
    check_flags(channels_first=channels_first)
    if not isinstance(apply, Applied):
        apply = Function(apply, parameters is not None, reach_of(apply))
    wrapped = Wrapped(
        parameters,
        _channels("mean", mean),
        _channels("std", std),
        apply,
        num_classes,
        (low, high),
        channels_first,
        image_size,
    )
    if num_classes is None:
        wrapped = wrapped.replace(num_classes=_count_classes(wrapped))  # type: ignore[attr-defined]
    return wrapped


class Applied:
    """What `Wrapped` applies: equal to another if it computes the same of the same parameters."""

    holds: ClassVar[str] = ""  # the attribute that is the model; none: the parameters are

    @property
    def model_name(self) -> str:
        """What messages call the model; empty if it is the parameters."""
        return type(getattr(self, self.holds)).__name__ if self.holds else ""

    def check(self, parameters: Any) -> None:
        """Raise InputError if it would not compute now what it computed when it was made."""


@dataclass(frozen=True, eq=False)
class Function(Applied):
    """A function of the user's, equal to itself as long as it reaches the same arrays and values.

    Parameters
    ----------
    function : callable
    takes_parameters : bool
        Whether it takes parameters before the images.
    reach : Reach
        What it reached when it was wrapped.
    """

    function: Callable[..., jax.Array]
    takes_parameters: bool
    reach: Reach

    @property
    def model_name(self) -> str:
        return name_of(self.function)

    def __call__(self, parameters: Any, images: jax.Array) -> jax.Array:
        return self.function(parameters, images) if self.takes_parameters else self.function(images)

    def __hash__(self) -> int:
        return hash((self._identity(), self.reach))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and (self._identity(), self.takes_parameters, self.reach) == (
            other._identity(),
            other.takes_parameters,
            other.reach,
        )

    def _identity(self) -> tuple[int, ...]:
        """Objects may be equal to others, or not hashable; a bound method is a new one each time."""
        if isinstance(self.function, MethodType):
            return id(self.function.__self__), id(self.function.__func__)
        return (id(self.function),)

    def check(self, parameters: Any) -> None:
        if reach_of(self.function).arrays != self.reach.arrays:
            raise InputError(
                f"arrays that {self.model_name} holds have changed since it was wrapped, in training "
                "perhaps; wrap it again, or give the weights as parameters: from_function(apply, parameters)"
            )


def alike(one: Any, other: Any) -> bool:
    """Whether two constants of models are certainly the same: arrays by their values, numbers to the bit."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | jax.Array):
        one, other = np.asarray(one), np.asarray(other)
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    try:
        return bool(one == other)
    except Exception:  # whatever a foreign class raises
        return False


def _bounds(bounds: Any) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError):
        raise InputError(f"bounds must be two numbers (low, high), not {bounds!r}") from None
    if not -np.inf < low < high < np.inf:
        raise InputError(f"bounds must be (low, high) with low below high, not {bounds!r}")
    return low, high


def _channels(name: str, values: Channels) -> jax.Array:
    """`mean` or `std` as float32."""
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if array.ndim > 1 or not np.isfinite(array).all() or (name == "std" and (array <= 0).any()):
        positive = "positive numbers" if name == "std" else "numbers"
        raise InputError(f"{name} must be one number or one for each channel, {positive}; not {values!r}")
    return jnp.asarray(array)


@jit
def _apply(wrapped: Wrapped, images: jax.Array) -> jax.Array:
    return wrapped(images)


def _count_classes(wrapped: Wrapped) -> int | None:
    """The number of classes by evaluating shapes, for the first size of image that the model takes.

    None if it takes none of those that are tried.
    """
    sizes = (wrapped.image_size,) if wrapped.image_size else _SIZES
    given = max(np.size(wrapped.mean), np.size(wrapped.std))
    for channels in (given,) if given > 1 else _CHANNELS:
        for size in sizes:
            images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
            try:
                logits = _apply.eval_shape(wrapped, images)
            except NotLogitsError:
                raise
            except Exception:  # whatever a foreign model raises for a shape that it does not take
                continue
            shape = getattr(logits, "shape", None)
            if shape is None or len(shape) != 2 or shape[0] != 2:
                found = f"an array {shape}" if shape is not None else type(logits).__name__
                raise InputError(f"the model must return logits (N, num_classes), not {found} for two images")
            return shape[1]
    return None
