"""Losses of the logits of one image: what attacks climb, and what is reported."""

import jax
import jax.numpy as jnp

from srdef.errors import InputError
from srdef.victims import Victim, expected_loss

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
    victim: Victim, x: jax.Array, label: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What attacks with cross-entropy climb, and the logits: the logarithm of the cross-entropy.

    For a victim that averages the losses of its draws it is the logarithm of their mean, so that the
    gradient has the direction of the mean of the draws' gradients, and no draw of it underflows.
    """
    return expected_loss(victim, lambda logits: log_cross_entropy(logits, label), x, key)


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
