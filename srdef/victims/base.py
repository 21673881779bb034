"""What all victims share: the base class, averages over draws, and what a victim has to be."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from srdef.errors import InputError, name_of, not_taken
from srdef.keys import of_seed
from srdef.models.frameworks import check_networks, framework_of
from srdef.own_code.edits import notice_edits, watched
from srdef.programs import jit

Average = Literal["loss", "logits", "probabilities"]


class Victim:
    """A function of one image that an attack can differentiate: the base class of all victims."""

    @property
    def num_classes(self) -> int:
        """The number of classes, the length of the logits, where the victim declares it."""
        # Of this kind, so that `getattr` with a default knows what to do.
        raise AttributeError(f"{type(self).__name__} declares no num_classes")

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Return the logits `(num_classes,)` of one image `(height, width, 3)` in [0, 1]."""
        raise NotImplementedError

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """Return `function` of the logits; a victim with several draws returns the mean over them."""
        return function(self(image, key))


def expected(victim: Victim, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
    """`function` of the victim's logits; averaged over its draws where the victim has several.

    Attacks take their losses through this, so that `ExpectationOverTransformation` can average
    the losses of its draws and not only the logits.

    Parameters
    ----------
    victim : Victim
    function : callable
        Maps logits `(num_classes,)` to a pytree of arrays, a loss for instance.
    image : array (height, width, 3)
    key : jax.random.key

    Returns
    -------
    pytree
        As `function` returns it.
    """
    if isinstance(victim, Victim):
        return victim.expected(function, image, key)
    return function(victim(image, key))


def expected_loss(
    victim: Victim, log_loss: Callable[[jax.Array], jax.Array], image: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The logarithm of the mean over the victim's draws of a loss, given its logarithm; and the mean logits.

    Parameters
    ----------
    victim : Victim
    log_loss : callable
        Maps logits `(num_classes,)` to the logarithm of a loss.
    image, key
        As for `expected`.
    """
    found, logits = expected(victim, lambda logits: (LogMean(log_loss(logits)), logits), image, key)
    return found.value, logits


@struct.dataclass
class LogMean:
    """A logarithm, the mean of which over draws is the logarithm of the mean: log(Σ exp(value) / n)."""

    value: jax.Array


def as_logits(outputs: jax.Array) -> jax.Array:
    """What a network returns, in float32 at least: attacks compare and subtract logits."""
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        return outputs  # which `check_victim` refuses: integers have no gradient
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


@jit
def _call(victim: Any, image: jax.Array, key: jax.Array) -> Any:
    return victim(image, key)


@watched
def check_victim(victim: Any, image_shape: tuple[int, ...]) -> int:
    """Evaluate the shape of a victim's output, which computes nothing, and return its number of classes.

    Parameters
    ----------
    victim : Victim
    image_shape : (height, width, channels)

    Raises
    ------
    InputError
        For something that cannot be called with such an image and a key, or that does not return float logits
        `(num_classes,)` of at least two classes, as many as it declares.
    """
    if isinstance(victim, Victim) or framework_of(victim) is None:
        wanted = ""
    else:
        wanted = "; if it is a model, give victims.Undefended(model)"
    if not callable(victim) or inspect.isfunction(victim):
        raise InputError(f"victim must be a victim like victims.Undefended(model), not {victim!r:.80}")
    if jax.tree_util.all_leaves([victim]):
        raise InputError(
            f"{_name(victim)} is no pytree, as a victim has to be: make it a flax.struct.dataclass{wanted}"
        )
    check_networks(victim)
    notice_edits(victim)
    try:
        # The program is traced once for each victim and shape, and kept.
        logits = _call.eval_shape(victim, jax.ShapeDtypeStruct(image_shape, jnp.float32), of_seed(0))
    except InputError:
        raise
    except jax.errors.TracerArrayConversionError as error:
        raise InputError(
            f"{_name(victim)} computes with NumPy, not with JAX: a model that does is made by "
            "srdef.models.from_black_box(function), a defense asks by jax.pure_callback"
        ) from error
    except Exception as error:  # whatever a network raises for images that it does not take
        raise not_taken(_name(victim), image_shape, error, advice=wanted) from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        found = type(logits).__name__ if shape is None else f"{logits.dtype} {shape}"
        raise InputError(f"{_name(victim)} must return float logits (num_classes,) for an image, not {found}")
    if logits.dtype not in (jnp.float32, jnp.float64):
        raise InputError(
            f"{_name(victim)} returns logits of {logits.dtype}, in which attacks cannot compare them: return "
            "srdef.victims.as_logits(logits)"
        )
    if shape[0] < 2:
        raise InputError(f"{_name(victim)} returns {shape[0]} logit for an image; attacks need at least 2")
    declared = getattr(victim, "num_classes", None)
    if declared is not None and declared != shape[0]:
        raise InputError(f"{_name(victim)} declares {declared} classes and returns {shape[0]} logits")
    return shape[0]


def _within(victim: Any) -> tuple[Any, ...]:
    """The victims right within a wrapper or an ensemble."""
    inner = getattr(victim, "victim", None)
    return getattr(victim, "victims", ()) if inner is None else (inner,)


def _name(victim: Any) -> str:
    """The network's name, which says more than that of what stands around it."""
    inner = getattr(victim, "victim", getattr(victim, "classifier", None))
    return name_of(victim) if inner is None else _name(inner)


def draws_per_call(victim: Victim) -> int:
    """Return how many draws one call makes: how often it asks the network, or networks.

    More than 1 only for `ExpectationOverTransformation` and `Ensemble`, also within other wrappers.
    """
    within = _within(victim)
    return getattr(victim, "draws", 1) * (sum(map(draws_per_call, within)) if within else 1)


def mean_over(one: Callable[[Any], Any], inputs: jax.Array, chunk: int | None) -> Any:
    """The mean of `one(input)` over the inputs; for a `LogMean` the logarithm of the mean.

    Parameters
    ----------
    one : callable
        Returns a pytree of arrays.
    inputs : array (n, ...)
    chunk : int, optional
        How many are computed at a time, and once more on the way back; None: all.
    """
    count = len(inputs)
    if chunk is None or chunk >= count:
        values = jax.vmap(one)(inputs)
    else:
        values = jax.lax.map(jax.checkpoint(one), inputs, batch_size=chunk)

    def mean(value: Any) -> Any:
        if isinstance(value, LogMean):
            return LogMean(jax.nn.logsumexp(value.value, axis=0) - math.log(count))
        return value.mean(axis=0)

    return jax.tree.map(mean, values, is_leaf=lambda value: isinstance(value, LogMean))
