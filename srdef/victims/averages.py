"""Victims that are averages: of the draws of a random victim, and of several victims."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.errors import InputError
from srdef.keys import of_seed
from srdef.validation import check_count, check_flags, has_value
from srdef.victims.base import Average, LogMean, Victim, expected, mean_over


class _Averaging(Victim):
    """Logits that are a mean over draws or victims; what of them is averaged, `average` says."""

    average: Average

    def _mean(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The mean of `function(logits)`."""
        raise NotImplementedError

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if self.average == "probabilities":
            # In log space: a probability may lie below the smallest float32.
            return self._mean(lambda logits: LogMean(jax.nn.log_softmax(logits)), image, key).value
        return self._mean(lambda logits: logits, image, key)

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The mean of `function`, or `function` of the mean logits."""
        if self.average == "loss":
            return self._mean(function, image, key)
        return function(self(image, key))


@struct.dataclass
class ExpectationOverTransformation(_Averaging):
    """A random victim as an average over several of its draws (EOT).

    Athalye, Engstrom, Ilyas and Kwok 2018 (arXiv:1707.07397). Every call, so every step of an
    attack, makes `draws` fresh draws from its key, folded into the batch.

    What is averaged decides what an attack climbs:

    - "loss": the losses of the draws, so the gradient is the mean of the draws' gradients. This is
      the reference implementation's (fra31/auto-attack, `eot_iter`). It reaches attacks that take
      their losses through `expected`; for others, and for predictions, the logits are averaged.
    - "logits": the logits.
    - "probabilities": the softmax probabilities; the logits are then the logarithm of their mean,
      so cross-entropy is that of an ensemble of the draws.

    Parameters
    ----------
    victim : Victim
        Random: its logits depend on the key.
    draws : int
    average : "loss", "logits" or "probabilities"
    fixed : bool
        Whether every call makes the same draws, those of `seed`, whatever its key.
    chunk : int, optional
        Draws computed at a time; default: all. With it, the memory for a gradient is that of one
        chunk: draws are computed once more on the way back.
    seed : int
        Of the fixed draws.

    Raises
    ------
    InputError
        For an unknown average, counts below 1, and a flag that is none.
    """

    victim: Any
    draws: int = struct.field(pytree_node=False, default=20)
    average: Average = struct.field(pytree_node=False, default="loss")
    fixed: bool = struct.field(pytree_node=False, default=False)
    chunk: int | None = struct.field(pytree_node=False, default=None)
    seed: Any = 0

    def __post_init__(self) -> None:
        if self.average not in get_args(Average):
            raise InputError(f"unknown average {self.average!r}; choose from: {', '.join(get_args(Average))}")
        check_count("draws", self.draws)
        if self.chunk is not None:
            check_count("chunk", self.chunk)
        check_flags(fixed=self.fixed)

    @property
    def num_classes(self) -> int:
        return self.victim.num_classes

    def _mean(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The mean of `function(logits)` over the draws."""
        keys = jax.random.split(of_seed(self.seed) if self.fixed else key, self.draws)

        def one(key: jax.Array) -> Any:
            return expected(self.victim, function, image, key)

        return mean_over(one, keys, self.chunk)


@struct.dataclass
class Ensemble(_Averaging):
    """Several victims as one: what an attacker climbs who wants to fool all of them, and others like them.

    Liu et al. 2017 (arXiv:1611.02770), section 5, average the probabilities; Dong et al. 2018
    (arXiv:1710.06081), algorithm 2, the logits, which they compare with the other two.

    - "logits": the weighted mean of the logits.
    - "probabilities": the logits are the logarithm of the weighted mean of the softmax probabilities. It is
      taken in log space, where no probability underflows.
    - "loss": the weighted mean of the losses. It reaches attacks that take their losses through `expected`;
      for others, and for predictions, the logits are averaged.

    Parameters
    ----------
    victims : tuple of Victim
        Any victims with the same classes, each with its own draws.
    average : "logits", "probabilities" or "loss"
    weights : sequence or array of float, optional
        One for each victim, of any sum; default: all alike.

    Raises
    ------
    InputError
        For no victim, victims with different numbers of classes, an unknown average, or weights that are not
        one number of at least 0 for each victim, one of them above 0.
    """

    victims: tuple[Any, ...]
    average: Average = struct.field(pytree_node=False, default="logits")
    weights: Any = None

    def __post_init__(self) -> None:
        if self.average not in get_args(Average):
            raise InputError(f"unknown average {self.average!r}; choose from: {', '.join(get_args(Average))}")
        if not isinstance(self.victims, list | tuple) or not self.victims:
            raise InputError(f"victims must be a tuple of victims, not {self.victims!r:.80}")
        object.__setattr__(self, "victims", tuple(self.victims))
        classes = {getattr(victim, "num_classes", None) for victim in self.victims}
        if len(classes - {None}) > 1:
            raise InputError(f"the victims of an ensemble must have the same classes; they have {classes}")
        array = isinstance(self.weights, np.ndarray | jax.Array)
        if isinstance(self.weights, list) or (array and self.weights.ndim == 1):
            object.__setattr__(self, "weights", tuple(self.weights))
        if isinstance(self.weights, tuple | np.ndarray | jax.Array) and not self._good_weights():
            raise InputError(f"weights must be {len(self.victims)} numbers of at least 0, not {self.weights}")

    def _good_weights(self) -> bool:
        """Of tracers, which weights are within a program, only the number is known."""
        if not isinstance(self.weights, tuple) or len(self.weights) != len(self.victims):
            return False
        if any(isinstance(weight, str) for weight in self.weights):
            return False
        known = [np.asarray(w) for w in self.weights if isinstance(w, int | np.integer) or has_value(w)]
        if not all((weight >= 0).all() for weight in known):
            return False
        total = sum(known, np.zeros(()))
        return len(known) < len(self.weights) or bool(((total > 0) & (total < np.inf)).all())

    @property
    def num_classes(self) -> int:
        return self.victims[0].num_classes

    def _mean(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The weighted mean of `function(logits)` over the victims."""
        values = [
            expected(victim, function, image, jax.random.fold_in(key, i))
            for i, victim in enumerate(self.victims)
        ]
        weights = jnp.ones(len(values)) if self.weights is None else jnp.stack(self.weights)
        shares = (weights / weights.sum()).astype(jnp.float32)

        def mean(*values: Any) -> Any:
            if isinstance(values[0], LogMean):
                logarithms = jnp.stack([value.value for value in values])
                scale = shares.reshape(-1, *[1] * (logarithms.ndim - 1))
                return LogMean(jax.nn.logsumexp(logarithms, axis=0, b=scale))
            stacked = jnp.stack(values)
            scale = shares.reshape(-1, *[1] * (stacked.ndim - 1))
            # Not 0 times the infinite logit of a masked class.
            return jnp.where(scale > 0, scale * stacked, 0).sum(axis=0).astype(stacked.dtype)

        return jax.tree.map(mean, *values, is_leaf=lambda value: isinstance(value, LogMean))
