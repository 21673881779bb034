"""What an attack sees: a classifier together with what stands before it.

A victim is a frozen pytree: `victim(image, key)` maps one image `(height, width, 3)` in [0, 1] to
logits `(classes,)`. The key feeds whatever is random in it; a deterministic victim ignores it.
Attacks differentiate through a victim, so what a wrapper does to gradients is what the adversary
knows.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx, struct

from srdef.defenses import Defense
from srdef.errors import InputError
from srdef.images import resize
from srdef.models.frameworks import as_classifier, check_evaluation_mode

Gradient = Literal["exact", "identity"]
Average = Literal["loss", "logits", "probabilities"]


class Victim:
    """A function of one image that an attack can differentiate: the base class of all victims."""

    @property
    def num_classes(self) -> int:
        """The number of classes, the length of the logits."""
        raise NotImplementedError

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


@jax.jit
def _call(victim: Any, image: jax.Array, key: jax.Array) -> Any:
    return victim(image, key)


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
    if not callable(victim) or inspect.isfunction(victim):
        raise InputError(f"victim must be a victim like victims.Undefended(classifier), not {victim!r:.80}")
    if jax.tree_util.all_leaves([victim]):
        raise InputError(
            f"{_name(victim)} is no pytree, as a victim has to be: make it a flax.struct.dataclass"
        )
    for network in (victim, getattr(victim, "classifier", None)):
        if isinstance(network, nnx.Module):
            check_evaluation_mode(network)
    try:
        # The program is traced once for each victim and shape, and kept.
        logits = _call.eval_shape(victim, jax.ShapeDtypeStruct(image_shape, jnp.float32), jax.random.key(0))
    except InputError:
        raise
    except Exception as error:  # whatever a network raises for images that it does not take
        reason = " ".join(str(error).split())
        size = "x".join(map(str, image_shape))
        raise InputError(
            f"{_name(victim)} does not take images of {size}: {type(error).__name__}: {reason[:300]}"
        ) from error
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


def _name(victim: Any) -> str:
    """The network's name, which says more than that of what stands around it."""
    inner = getattr(victim, "victim", getattr(victim, "classifier", None))
    return type(victim).__name__ if inner is None else _name(inner)


def draws_per_call(victim: Victim) -> int:
    """Return how many draws one call makes: how often it asks the network.

    More than 1 only for `ExpectationOverTransformation`, also within other wrappers.
    """
    inner = getattr(victim, "victim", None)
    return getattr(victim, "draws", 1) * (1 if inner is None else draws_per_call(inner))


@struct.dataclass
class Undefended(Victim):
    """A classifier with nothing before it.

    Parameters
    ----------
    classifier : Classifier
        Maps images `(N, H, W, C)` in [0, 1] to logits `(N, num_classes)`; a model of another framework is
        wrapped (`srdef.models.wrap`).
    """

    classifier: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "classifier", as_classifier(self.classifier))

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return as_logits(self.classifier(image[None])[0])


@struct.dataclass
class Defended(Victim):
    """A classifier with a defense before it, and what the adversary differentiates.

    The logits are those of the defended image, whatever `gradient` says. For a defense whose
    gradient is zero or useless the adversary replaces it on the way back by something similar that
    has one (backward pass differentiable approximation, Athalye, Carlini and Wagner 2018,
    arXiv:1802.00420, section 4.1); the classifier itself is always differentiated.

    - "exact": through the defense as it is written. Some defenses offer a gradient for their
      rounding (`gradient="straight_through"`); without it this gradient is zero.
    - "identity": the defense counts as the identity. Where it changes the size (super-resolution),
      as bicubic interpolation to that size, so that the gradient is brought back by the transpose
      of that linear map.
    - a defense: the gradient of this surrogate, at the image that is attacked and with the key that
      the defense gets.

    Parameters
    ----------
    classifier : Classifier
        As for `Undefended`.
    defense : Defense
        Stands before it.
    gradient : "exact", "identity" or Defense

    Raises
    ------
    InputError
        For an unknown gradient; when called, if a surrogate's result has another size than the
        defense's.
    """

    classifier: Any
    defense: Any
    gradient: Gradient | Defense = struct.field(pytree_node=False, default="exact")
    surrogate: Any = None  # where a defense given as `gradient` is kept, as a pytree

    def __post_init__(self) -> None:
        object.__setattr__(self, "classifier", as_classifier(self.classifier))
        if self.gradient in (*get_args(Gradient), "surrogate"):
            return
        if isinstance(self.gradient, str) or not callable(self.gradient):
            raise InputError(
                f"unknown gradient {self.gradient!r}; choose from: exact, identity, or give a defense"
            )
        object.__setattr__(self, "surrogate", self.gradient)
        object.__setattr__(self, "gradient", "surrogate")

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if self.gradient == "exact":
            defended = self.defense(image, key)
        else:
            defended = jax.lax.stop_gradient(self.defense(jax.lax.stop_gradient(image), key))
            if self.gradient == "surrogate":
                similar = self.surrogate(image, key)
            else:
                similar = image
                if image.shape != defended.shape:
                    similar = resize(image, *defended.shape[:2])
            if similar.shape != defended.shape:
                raise InputError(
                    f"the surrogate makes images of {similar.shape}, the defense of {defended.shape}"
                )
            # The difference is zero, so the value is the defense's to the last bit.
            defended = defended + (similar - jax.lax.stop_gradient(similar))
        return as_logits(self.classifier(defended[None])[0])


@struct.dataclass
class ExpectationOverTransformation(Victim):
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
        For an unknown average, or counts below 1.
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
        if self.draws < 1 or (self.chunk is not None and self.chunk < 1):
            raise InputError(f"draws and chunk must be at least 1, not {self.draws} and {self.chunk}")

    @property
    def num_classes(self) -> int:
        return self.victim.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if self.average == "probabilities":
            # In log space: a probability may lie below the smallest float32.
            return self._mean(lambda logits: LogMean(jax.nn.log_softmax(logits)), image, key).value
        return self._mean(lambda logits: logits, image, key)

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The mean of `function` over the draws, or `function` of the mean logits."""
        if self.average == "loss":
            return self._mean(function, image, key)
        return function(self(image, key))

    def _mean(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The mean of `function(logits)` over the draws."""
        keys = jax.random.split(jax.random.key(self.seed) if self.fixed else key, self.draws)

        def one(key: jax.Array) -> Any:
            return expected(self.victim, function, image, key)

        if self.chunk is None or self.chunk >= self.draws:
            values = jax.vmap(one)(keys)
        else:
            values = jax.lax.map(jax.checkpoint(one), keys, batch_size=self.chunk)

        def mean(value: Any) -> Any:
            if isinstance(value, LogMean):
                return LogMean(jax.nn.logsumexp(value.value, axis=0) - math.log(self.draws))
            return value.mean(axis=0)

        return jax.tree.map(mean, values, is_leaf=lambda value: isinstance(value, LogMean))


@struct.dataclass
class DiverseInputs(Victim):
    """A victim that sees each image randomly resized and padded: the τ(x; p) of DI²-FGSM.

    Equations (8) and (9) of the paper, after Xie et al. 2019 (arXiv:1803.06978) and their code
    (cihangxie/DI-2-FGSM, `attack.py`): with probability p the image is enlarged (nearest neighbour)
    to a side drawn uniformly from [299, 330) and stands at a random place on a grey canvas of side
    330, which is *not* resized back. For other sizes than 299 these numbers scale.

    Two things differ from that code. It draws once for a batch; here every image has its own draw.
    And it passes an image that is not resized on at its own size; here such an image stands in the
    middle of the same canvas, so that one program of one size serves both.

    Parameters
    ----------
    victim : Victim
        Takes images of any size.
    probability : float
        p, the share of resized images.
    fill : float
        What surrounds the image on the canvas: mid-grey, the zero of networks that take [-1, 1].
    """

    victim: Any
    probability: Any = 0.5
    fill: Any = 0.5

    @property
    def num_classes(self) -> int:
        return self.victim.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        transform_key, victim_key = jax.random.split(key)
        return self.victim(self.transform(image, transform_key), victim_key)

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """`function` of the logits, averaged over the draws of the victim within."""
        transform_key, victim_key = jax.random.split(key)
        return expected(self.victim, function, self.transform(image, transform_key), victim_key)

    def transform(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """One draw of the canvas, `(round(height * 330/299), round(width * 330/299), 3)`."""
        image = jnp.asarray(image)
        resize_key, size_key, top_key, left_key = jax.random.split(key, 4)
        resized = jax.random.bernoulli(resize_key, self.probability)
        size = jax.random.uniform(size_key)
        rows, inside_rows = _place(image.shape[0], resized, size, top_key)
        columns, inside_columns = _place(image.shape[1], resized, size, left_key)
        inside = inside_rows[:, None] & inside_columns[None]
        return jnp.where(inside[..., None], image[rows][:, columns], self.fill)


def _place(side: int, resized: jax.Array, size: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each place along one axis of the canvas: which row of the image lies there, and if any.

    Parameters
    ----------
    side : int
        Of the image.
    resized : bool array ()
        Whether the image is resized and moved, or stands in the middle as it is.
    size : array ()
        In [0, 1): where in its range the new side lies.
    key : jax.random.key
        Draws the place.
    """
    canvas = canvas_side(side)
    new_side = jnp.where(resized, side + jnp.floor(size * (canvas - side)).astype(int), side)
    start = jax.random.randint(key, (), 0, jnp.maximum(canvas - new_side, 1))
    start = jnp.where(resized, start, (canvas - side) // 2)
    offset = jnp.arange(canvas) - start
    inside = (offset >= 0) & (offset < new_side)
    return jnp.clip(offset * side // new_side, 0, side - 1), inside


def canvas_side(side: int) -> int:
    """The side of the canvas of `DiverseInputs` for an image of the given side: 330 for 299."""
    return round(side * 330 / 299)
