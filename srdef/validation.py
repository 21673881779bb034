"""Bad arguments of an attack, found before anything is computed."""

from collections.abc import Mapping
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError
from srdef.programs import jit

Scalar = float | jax.Array | np.ndarray

# Values that leave [0, 1] by no more than this are rounding errors of the caller, and clipped.
RANGE_TOLERANCE = 1e-6

# What can be called where `perturb` cannot: see `check_not_traced`.
ONE_IMAGE = "the attack itself on one image, attack(victim, image, label, key)"


@overload
def check_images(images: Any, name: str = ...) -> np.ndarray: ...
@overload
def check_images(images: Any, name: str = ..., *, on_device: bool) -> Any: ...
def check_images(images: Any, name: str = "images", *, on_device: bool = False) -> Any:
    """Images `(N, height, width, channels)` as float32 in [0, 1]; InputError says what `name` has wrong.

    They are the given array itself where that is what it holds. With `on_device` a JAX array is looked at
    where it is; anything else becomes a NumPy array.
    """
    images = images if on_device and isinstance(images, jax.Array) else np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        hint = "; divide 8-bit images by 255" if images.dtype == np.uint8 else ""
        raise InputError(f"{name} must be floats in [0, 1], not {images.dtype}{hint}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise InputError(f"{name} must have the shape (N, height, width, channels), not {images.shape}")
    if images.shape[1] in (1, 3, 4) and images.shape[3] > 4:  # no strips of so many channels
        raise InputError(
            f"{name} of the shape {images.shape} have their channels first; give (N, height, width, "
            "channels): np.moveaxis(images, 1, -1)"
        )
    if len(images) == 0:
        raise InputError("there are no images")
    images = images.astype(np.float32, copy=False)
    if isinstance(images, jax.Array):
        low, high = map(np.asarray, _ranges_on_device(images))
    else:
        low, high = _ranges(images)
    # NaN fails both comparisons.
    bad = ~((low >= -RANGE_TOLERANCE) & (high <= 1 + RANGE_TOLERANCE))
    if bad.any():
        index = int(np.argmax(bad))
        values = np.asarray(images[index])
        value = values[~((values >= -RANGE_TOLERANCE) & (values <= 1 + RANGE_TOLERANCE))][0]
        raise InputError(f"{name} must lie in [0, 1]; image {index} holds {value}")
    if low.min() >= 0 and high.max() <= 1:
        return images
    return jnp.clip(images, 0, 1) if isinstance(images, jax.Array) else np.clip(images, 0, 1)


def check_pixels(images: Any, smallest: int = 1) -> None:
    """InputError if a network cannot take `images`, traced or not.

    The mean that it subtracts would make colour images of gray ones.

    Parameters
    ----------
    images : float array (N, height, width, 3)
    smallest : int
        The shortest side that it takes, in pixels.
    """
    shape = images.shape
    if len(shape) != 4 or shape[-1] != 3:
        raise InputError(f"the network takes images (N, height, width, 3), not {shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"the network takes images as floats in [0, 1], not {images.dtype}")
    height, width = shape[1:3]
    if min(height, width) < smallest:
        raise InputError(f"images of {height}x{width} are too small: at least {smallest}x{smallest}")


@jit
def _ranges_on_device(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `_ranges`."""
    return images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))


def _ranges(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each image; NaN where it holds one."""
    flat = images.reshape(len(images), -1)
    low, high = np.empty(len(flat), flat.dtype), np.empty(len(flat), flat.dtype)
    # Some at a time, so that they are read from memory only once.
    block = max(1, 100_000 // flat.shape[1])
    for start in range(0, len(flat), block):
        rows = slice(start, start + block)
        flat[rows].min(axis=1, out=low[rows])
        flat[rows].max(axis=1, out=high[rows])
    return low, high


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
        raise InputError(
            f"label {labels[index]} of image {index} is outside the classes 0 to {num_classes - 1}"
        )
    return labels.astype(np.int32)


def check_ids(ids: Any, count: int) -> np.ndarray:
    """Ids `(count,)` as uint32 (default 0, 1, ...); InputError if they are not integers in range."""
    ids = np.arange(count) if ids is None else np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer) or ids.shape != (count,):
        raise InputError(f"ids must be {count} integers, not {ids.dtype} of shape {ids.shape}")
    if (ids < 0).any() or (ids >= 2**32).any():
        raise InputError(f"ids must lie in [0, 2**32), not {ids.min()} to {ids.max()}")
    return ids.astype(np.uint32)


def check_not_traced(what: str, instead: str, *given: Any) -> None:
    """InputError within `jax.jit`, and with arrays of `jax.grad` or `jax.vmap`: they have no values yet.

    Parameters
    ----------
    what : str
        The function that looks at values, by its name.
    instead : str
        What can be called there.
    *given : pytrees
        Its arguments.
    """
    # Within `jax.jit` every array is traced, also a new one.
    if is_traced(given, jnp.zeros(())):
        raise InputError(
            f"{what} works on the values of arrays, which have none while jax.jit, jax.grad or jax.vmap "
            f"traces a function; call it outside of them, and within them {instead}"
        )


def is_traced(*given: Any) -> bool:
    """Whether an array in these pytrees has no value yet, as JAX is tracing a function."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))


def check_flags(**flags: Any) -> None:
    """InputError if one of the options is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{name} must be True or False, not {value!r}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """InputError if the option `name` is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, not {value!r:.80}")


def _values(name: str, value: Scalar) -> np.ndarray:
    """The option as an array, empty while JAX traces it; InputError if it is no number."""
    if isinstance(value, list | tuple):
        raise InputError(f"{name} must be a number or an array with one for each image, not {value!r}")
    if is_traced(value):
        return np.zeros(0)
    values = np.asarray(value)
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == jnp.bfloat16):
        raise InputError(f"{name} must be a number, not {value!r}")
    return values


def check_numbers(**numbers: Scalar) -> None:
    """InputError if one of the options is no number, negative or not finite."""
    for name, value in numbers.items():
        values = _values(name, value)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise InputError(f"{name} must not be negative, NaN or infinite, but is {value}")


def check_positive(**numbers: Scalar) -> None:
    """InputError if one of the options, with which nothing would move at 0, is no finite number above 0."""
    check_numbers(**numbers)
    for name, value in numbers.items():
        if not (_values(name, value) > 0).all():
            raise InputError(f"{name} must be greater than 0, but is {value}")


def check_step_size(step_size: Scalar, epsilon: Scalar) -> None:
    """InputError if the step is no number, negative or not finite, or 0 in a ball with a radius."""
    check_numbers(step_size=step_size)
    steps, radii = _values("step_size", step_size), _values("epsilon", epsilon)
    if steps.size and radii.size and ((steps == 0) & (radii > 0)).any():
        raise InputError(f"step_size must be greater than 0, but is {step_size}")


def check_shares(**numbers: Scalar) -> None:
    """InputError if one of the options is no number in [0, 1]."""
    for name, value in numbers.items():
        values = _values(name, value)
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError(f"{name} must lie in [0, 1], but is {value}")


def check_epsilon(epsilon: Scalar, norm: str) -> None:
    """InputError if the radius is no number, negative or not finite, or in L∞ longer than the range."""
    values = _values("epsilon", epsilon)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(f"epsilon must be finite and not negative, but is {epsilon}")
    if norm == "linf" and (values > 1).any():
        raise InputError(f"epsilon is in units of the [0, 1] range (write 8 / 255), but is {epsilon}")


def numbers_among(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Those leaves of a dataclass that are numbers with values.

    Not what stands in their places in trees of axes, shapes or positions, and nothing that JAX traces.
    """
    return {name: leaf for name, leaf in leaves.items() if has_value(leaf)}


def has_value(leaf: Any) -> bool:
    """Whether a leaf is a number, or an array of them, whose values this process can look at."""
    if isinstance(leaf, jax.Array):
        return not is_traced(leaf) and leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, float | np.floating | np.ndarray)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """InputError if the option `name` is none of `choices`."""
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}; choose from: {', '.join(choices)}")


def one_start_per_image(start: Any, images: Any) -> np.ndarray:
    """The image that an attack starts from as a float32 array of the shape of the images."""
    values = np.asarray(start, np.float32)
    if values.shape not in (images.shape, images.shape[1:]):
        raise InputError(
            f"start must be one image {images.shape[1:]} or one per image {images.shape}, not {values.shape}"
        )
    return np.broadcast_to(values, images.shape)


def one_row_per_image(leaf: Any, count: int) -> np.ndarray:
    """A number of an attack as a float32 array `(count,)`."""
    values = np.asarray(leaf, np.float32)
    if values.shape not in ((), (count,)):
        raise InputError(
            f"a number of the attack must be a scalar or {count} values, one per image, not {values.shape}"
        )
    return np.broadcast_to(values, (count,))
