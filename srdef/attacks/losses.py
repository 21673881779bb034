"""Losses of the logits of one image: what attacks climb, and what is reported.

A loss is a function of logits `(classes,)` and a label, and high where the label is not the prediction.
Attacks climb it; a targeted attack, whose label is the class to reach, descends it.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from srdef.errors import InputError
from srdef.victims import LogMean, Victim, expected, expected_loss

LossName = Literal["cross_entropy", "margin", "dlr", "logit"]
Loss = LossName | Callable[[jax.Array, jax.Array], jax.Array]
"""What a gradient attack climbs: one of these names, or any function of (logits, label) to a scalar.

- "cross_entropy": its logarithm, which has the same direction and does not underflow (`log_cross_entropy`).
- "margin": the largest other logit minus the label's (Carlini and Wagner 2017, arXiv:1608.04644, their f_6).
- "dlr": the margin divided by a distance of logits, so that their scale does not matter (Croce and Hein 2020,
  arXiv:2003.01690, equations 6 and 7). It needs three classes, in a targeted attack four.
  Untargeted it is 1, without a gradient, wherever the label is third: with a random victim or view, as that
  of DI²-FGSM, that may be so while the image itself is not adversarial.
- "logit": minus the label's logit (Zhao, Liu and Larson 2021, arXiv:2012.11528): for targeted
  transfer attacks, as its gradient does not vanish while they go on.
"""

# Keeps the quotient of the DLR loss finite where the logits are all equal.
_TINY = 1e-12


def soft_lead(logits: jax.Array, label: jax.Array) -> jax.Array:
    """By how much the other classes together lead the label: log Σ exp of theirs minus its logit.

    Cross-entropy is the softplus of it, so the gradient of both has one direction at every point.
    """
    others = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
    return jax.nn.logsumexp(others) - logits[label]


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy of logits `(classes,)`, with a gradient that survives a saturated softmax.

    Equal to `-log_softmax(logits)[label]`, written as softplus(log Σ exp over the *other* classes
    minus the label's logit). Where the label's probability rounds to 1, the usual form loses the
    label's part of the gradient (p - 1 = 0) and keeps only the others', which points elsewhere.
    """
    return jax.nn.softplus(soft_lead(logits, label))


def log_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The logarithm of the cross-entropy, whose gradient does not underflow.

    With m the logarithm of Σ exp over the other classes minus the label's logit, cross-entropy is
    softplus(m). In float32 that and its gradient are exactly zero from m = -104 on: where a network is that
    sure, an attack on the cross-entropy stands still and the image looks robust. log softplus(m) rises with
    m as cross-entropy does and has a gradient of the same direction at every point; it is m itself where the
    network is sure.
    """
    lead = soft_lead(logits, label)
    # softplus(m) = exp(m) up to rounding below -16; each branch is finite where the other is taken.
    return jnp.where(lead < -16, lead, jnp.log(jax.nn.softplus(jnp.maximum(lead, -16))))


def loss_to_climb(
    victim: Victim,
    x: jax.Array,
    label: jax.Array,
    key: jax.Array,
    loss: Loss = "cross_entropy",
    targeted: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """What a gradient attack climbs at `x`, and the logits there.

    For a victim that averages the losses of its draws it is the mean of their losses. For cross-entropy it is
    the logarithm of their mean, so that the gradient has the direction of the mean of the draws' gradients,
    and no draw of it underflows.

    Parameters
    ----------
    victim : Victim
    x : array (height, width, channels)
    label : integer array ()
    key : jax.random.key
    loss : "cross_entropy", "margin", "dlr", "logit" or callable
        See `Loss`.
    targeted : bool
        Whether the label is the class to reach: the loss is then descended, so what is climbed is minus the
        loss. The DLR loss is then that of equation (7), with the most likely other class as the one to leave.

    Raises
    ------
    InputError
        For too few classes for the DLR loss, or a function that returns no scalar.
    """
    if loss == "cross_entropy":
        value, logits = expected_loss(victim, lambda logits: log_cross_entropy(logits, label), x, key)
        return -value if targeted else value, logits

    def climbed(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        if loss == "dlr" and targeted:
            return _towards(logits, label), logits
        value = (_FUNCTIONS[loss] if isinstance(loss, str) else loss)(logits, label)
        return -value if targeted else value, logits

    value, logits = expected(victim, climbed, x, key)
    if getattr(value, "shape", None) != ():
        raise InputError(f"loss must return a scalar for the logits of one image, not {value!r:.80}")
    return value, logits


def loss_towards(
    victim: Victim,
    x: jax.Array,
    label: jax.Array,
    target: jax.Array,
    key: jax.Array,
    loss: Loss = "dlr",
) -> tuple[jax.Array, jax.Array]:
    """What an attack climbs that leaves `label` for one target of several, and the logits.

    The DLR loss of equation (7) has both in it, and needs four classes. The other losses are those of the
    target, descended, and so is cross-entropy in the place of "dlr" where the victim has fewer than four.

    Parameters
    ----------
    victim, x, label, key, loss
        As for `loss_to_climb`.
    target : integer array ()
    """
    if loss != "dlr":
        return loss_to_climb(victim, x, target, key, loss, targeted=True)

    def one(logits: jax.Array) -> tuple[Any, jax.Array]:
        if len(logits) < classes_needed("dlr", targeted=True):
            return LogMean(log_cross_entropy(logits, target)), logits
        return targeted_difference_of_logits_ratio(logits, label, target), logits

    found, logits = expected(victim, one, x, key)
    return -found.value if isinstance(found, LogMean) else found, logits


def classes_needed(loss: Any, targeted: bool = False) -> int:
    """The fewest classes with which a loss can be taken."""
    return 2 if loss != "dlr" else 4 if targeted else 3


def check_loss(loss: Any) -> None:
    """InputError unless `loss` is a name of `LossName` or a function."""
    if isinstance(loss, str) or not callable(loss):
        if loss not in get_args(LossName):
            names = ", ".join(get_args(LossName))
            raise InputError(f"unknown loss {loss!r}; choose from: {names}, or a function of (logits, label)")
    elif loss.__hash__ is None:
        raise InputError("loss must be a function or an object with a hash: programs are compiled for each")


def without_masked_classes(logits: jax.Array) -> jax.Array:
    """The logits with the smallest finite one in the place of -inf: for losses that divide by differences."""
    masked = jnp.isneginf(logits)
    return jnp.where(masked, jnp.where(masked, jnp.inf, logits).min(), logits)


def max_other_logit(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The largest of the logits `(classes,)` but the label's."""
    return jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits).max()


def difference_of_logits_ratio(logits: jax.Array, label: jax.Array) -> jax.Array:
    """DLR: -(z_y - max_{i≠y} z_i) / (z_π1 - z_π3), equation (6); at least 3 classes."""
    _check_classes(logits, 3, "the DLR loss")
    logits = without_masked_classes(logits)
    ordered, _ = jax.lax.top_k(logits, 3)
    return (max_other_logit(logits, label) - logits[label]) / (ordered[0] - ordered[2] + _TINY)


def targeted_difference_of_logits_ratio(logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
    """Targeted DLR: -(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2), equation (7); at least 4 classes."""
    _check_classes(logits, 4, "the targeted DLR loss")
    logits = without_masked_classes(logits)
    ordered, _ = jax.lax.top_k(logits, 4)
    spread = ordered[0] - (ordered[2] + ordered[3]) / 2
    return (logits[target] - logits[label]) / (spread + _TINY)


def _check_classes(logits: jax.Array, needed: int, what: str) -> None:
    if logits.shape[0] < needed:
        raise InputError(f"{what} needs at least {needed} classes; the victim has {logits.shape[0]}")


def likeliest_others(logits: jax.Array, label: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` most likely classes but the label, most likely first, and how many of them can win.

    Fewer if the victim has fewer. A logit of -inf is that of a class that never wins: such classes come last.
    """
    others = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
    values, classes = jax.lax.top_k(others, min(count, logits.shape[0] - 1))
    return classes, (values > -jnp.inf).sum().astype(jnp.int32)


def margin(logits: jax.Array, label: jax.Array) -> jax.Array:
    """By how much the largest other logit leads the label's: above 0 where the label is not predicted."""
    return max_other_logit(logits, label) - logits[label]


def negative_logit(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The label's logit, negated."""
    return -logits[label]


def _towards(logits: jax.Array, target: jax.Array) -> jax.Array:
    """The targeted DLR loss that leaves the most likely class but the target.

    Minus the loss of equation (6) would not do: its gradient is zero where the target is the third.
    """
    others = jnp.where(jnp.arange(logits.shape[0]) == target, -jnp.inf, logits)
    return targeted_difference_of_logits_ratio(logits, jnp.argmax(others), target)


_FUNCTIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "margin": margin,
    "dlr": difference_of_logits_ratio,
    "logit": negative_logit,
}
