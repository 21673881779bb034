"""The gradient-sign family: FGSM, I-FGSM and MI-FGSM as one attack with different numbers.

Equations (2) to (5) of Mustafa et al., "Image Super-Resolution as a Defense Against Adversarial
Attacks" (IEEE TIP 2020, arXiv:1901.01677), whose own sources are Goodfellow et al. 2015
(arXiv:1412.6572), Kurakin et al. 2017 (arXiv:1607.02533) and Dong et al. 2018 (arXiv:1710.06081).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks import rounding
from srdef.attacks.base import REGISTRY, Scalar
from srdef.errors import InputError
from srdef.victims import Victim


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy of logits `(classes,)`, with a gradient that survives a saturated softmax.

    Equal to `-log_softmax(logits)[label]`, written as softplus(log Σ exp over the *other* classes
    minus the label's logit). Where the label's probability rounds to 1, the usual form loses the
    label's part of the gradient (p - 1 = 0) and keeps only the others', which points elsewhere.
    """
    others = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
    return jax.nn.softplus(jax.nn.logsumexp(others) - logits[label])


@struct.dataclass
class GradientSign:
    """Steps along the sign of the (accumulated) loss gradient, projected onto an L∞ ball.

    Starting from g_0 = 0 and x_0 = the image, for m = 0 ... steps - 1:

        g_{m+1} = momentum * g_m + ∇L(x_m) / ||∇L(x_m)||_1
        x_{m+1} = clip_ε(x_m + step_size * sign(g_{m+1}))

    with the cross-entropy L and clip_ε the projection onto the L∞ ball of radius ε around the
    image and onto [0, 1]. With one step of size ε this is FGSM; with momentum 0 it is I-FGSM, as
    the sign does not see the scale of the gradient. Targeted attacks descend instead of ascend.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    step_size : float
        α, in the same unit.
    momentum : float
        The decay factor μ.
    steps : int
        Number of gradients.
    targeted : bool
        Whether labels are the classes to reach.
    unroll : int
        How many steps are unrolled into one turn of the loop.
    """

    epsilon: Scalar
    step_size: Scalar
    momentum: Scalar = 0.0
    steps: int = struct.field(pytree_node=False, default=10)
    targeted: bool = struct.field(pytree_node=False, default=False)
    unroll: int = struct.field(pytree_node=False, default=1)

    def __call__(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        def loss(x: jax.Array, key: jax.Array) -> jax.Array:
            value = cross_entropy(victim(x, key), label)
            return -value if self.targeted else value

        low = jnp.maximum(image - self.epsilon, 0)
        high = jnp.minimum(image + self.epsilon, 1)

        def step(carry: tuple[jax.Array, jax.Array], m: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            x, momentum = carry
            gradient = jax.grad(loss)(x, jax.random.fold_in(key, m))
            momentum = self.momentum * momentum + normalize_l1(gradient)
            x = jnp.clip(x + self.step_size * jnp.sign(momentum), low, high)
            return (x, momentum), None

        start = (image, jnp.zeros_like(image))
        (x, _), _ = jax.lax.scan(step, start, jnp.arange(self.steps), unroll=self.unroll)
        return x

    def round(
        self, victim: Victim, image: jax.Array, attacked: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        return rounding.within_linf(image, attacked, self.epsilon)


def normalize_l1(gradient: jax.Array) -> jax.Array:
    """The gradient divided by its L1 norm; a zero gradient stays zero."""
    norm = jnp.abs(gradient).sum()
    return gradient / jnp.maximum(norm, jnp.finfo(gradient.dtype).tiny)


def _check(steps: int, **numbers: Scalar) -> None:
    """InputError if `steps` is not a positive integer or one of `numbers` is negative or NaN."""
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps must be an integer of at least 1, not {steps!r}")
    for name, value in numbers.items():
        if not (np.asarray(value) >= 0).all():
            raise InputError(f"{name} must not be negative or NaN, but is {value}")


@REGISTRY.register("fgsm")
def fgsm(epsilon: Scalar = 10 / 255, *, targeted: bool = False) -> GradientSign:
    """FGSM, equation (2): one step of ε along the sign of the gradient.

    The paper uses ε of 2, 5 and 10 levels of 255.
    """
    _check(1, epsilon=epsilon)
    return GradientSign(epsilon, step_size=epsilon, steps=1, targeted=targeted)


@REGISTRY.register("ifgsm")
def ifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    steps: int = 10,
    targeted: bool = False,
    unroll: int = 1,
) -> GradientSign:
    """I-FGSM, equation (3); the default step is ε / steps, as in the transfer-attack literature."""
    _check(steps, epsilon=epsilon)
    step_size = epsilon / steps if step_size is None else step_size
    _check(steps, step_size=step_size)
    return GradientSign(epsilon, step_size, steps=steps, targeted=targeted, unroll=unroll)


@REGISTRY.register("mifgsm")
def mifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    targeted: bool = False,
    unroll: int = 1,
) -> GradientSign:
    """MI-FGSM, equations (4) and (5); ε 16/255, 10 steps of ε/10 and μ 1 as its authors' code.

    The *gradient* is accumulated, divided by its L1 norm. (Some libraries accumulate its sign,
    which is another attack.)
    """
    _check(steps, epsilon=epsilon, momentum=momentum)
    step_size = epsilon / steps if step_size is None else step_size
    _check(steps, step_size=step_size)
    return GradientSign(epsilon, step_size, momentum, steps=steps, targeted=targeted, unroll=unroll)
