"""The gradient-sign family: one attack, whose numbers make it FGSM, I-FGSM, MI-FGSM, DI²-FGSM,
MDI²-FGSM or PGD.

Equations (2) to (5), (8) and (9) of Mustafa et al., "Image Super-Resolution as a Defense Against
Adversarial Attacks" (IEEE TIP 2020, arXiv:1901.01677). Its own sources are Goodfellow et al. 2015
(arXiv:1412.6572), Kurakin et al. 2017 (arXiv:1607.02533), Dong et al. 2018 (arXiv:1710.06081) and
Xie et al. 2019 (arXiv:1803.06978); PGD is Madry et al. 2018 (arXiv:1706.06083).
"""

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, RESTART, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.losses import Loss, check_loss, loss_to_climb, max_other_logit
from srdef.attacks.projections import Norm, project, safe_divide
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar, check_choice, check_count, check_epsilon, check_numbers, check_shares
from srdef.victims import DiverseInputs, Victim


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array  # counts steps over all restarts
    x: jax.Array
    g: jax.Array
    best: jax.Array
    best_margin: jax.Array
    diagnostics: Diagnostics


@struct.dataclass
class GradientSign(Attack):
    """Steps along the sign of the (accumulated) loss gradient, projected onto a ball.

    Starting from g_0 = 0 and x_0 = the image, for m = 0 ... steps - 1:

        g_{m+1} = momentum * g_m + ∇L(x_m) / ||∇L(x_m)||_1
        x_{m+1} = clip_ε(x_m + step_size * sign(g_{m+1}))

    with the loss L, cross-entropy unless said otherwise, and clip_ε the projection onto the ball of radius ε
    around the image and onto [0, 1]. (The gradient of cross-entropy is that of its logarithm: it has the same
    direction and does not underflow where the network is very sure.) With one step of size ε this is FGSM;
    with momentum 0 it is I-FGSM, as the sign does not see the scale of the gradient. In L2, sign(g) becomes
    g / ||g||_2. Targeted attacks descend instead of ascend.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    step_size : float
        α, in the same unit.
    momentum : float
        The decay factor μ.
    diversity : float
        Probability p that a step sees a resized image (used with `diverse_inputs`).
    steps : int
        Number of gradients (of each restart).
    norm : "linf" or "l2"
    random_start : bool
        Whether x_0 is drawn uniformly from the ball.
    restarts : int
        Number of runs. The result is the final image of the run with the largest margin of a wrong
        class (of the target). Judging the runs takes one more gradient for each.
    stop_early : bool
        Whether an image that is adversarial after one run needs no other. Switch it off for random
        victims, where one lucky draw would end the attack.
    diverse_inputs : bool
        Whether the gradients are taken through `victims.DiverseInputs`.
    targeted : bool
        Whether labels are the classes to reach.
    loss : "cross_entropy", "margin", "dlr", "logit" or callable
        L: see `losses.Loss`.
    """

    epsilon: Scalar
    step_size: Scalar
    momentum: Scalar = 0.0
    diversity: Scalar = 0.0
    steps: int = struct.field(pytree_node=False, default=10)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    random_start: bool = struct.field(pytree_node=False, default=False)
    restarts: int = struct.field(pytree_node=False, default=1)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    diverse_inputs: bool = struct.field(pytree_node=False, default=False)
    targeted: bool = struct.field(pytree_node=False, default=False)
    loss: Loss = struct.field(pytree_node=False, default="cross_entropy")

    @property
    def max_steps(self) -> int:
        return self.steps if self.restarts == 1 else self.restarts * (self.steps + 1)

    @property
    def stops_early(self) -> bool:
        return self.restarts > 1 and self.stop_early

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        start = self._start(image, jax.random.fold_in(key, 0))
        none = jnp.float32(-jnp.inf)
        g = jnp.zeros_like(image)
        return State(image, label, key, jnp.int32(0), start, g, image, none, Diagnostics.create())

    def step(self, victim: Victim, state: State) -> State:
        # Key 0 belongs to the first start.
        key = jax.random.fold_in(state.key, state.iteration + 1)
        if self.diverse_inputs:
            victim = DiverseInputs(victim, self.diversity)

        def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return loss_to_climb(victim, x, state.label, key, self.loss, self.targeted)

        (_, logits), gradient = value_and_grad(loss, state.x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial)
        g = self.momentum * state.g + safe_divide(gradient, jnp.abs(gradient).sum())
        direction = jnp.sign(g) if self.norm == "linf" else safe_divide(g, jnp.linalg.norm(g.ravel()))
        x = project(state.image, state.x + self.step_size * direction, self.epsilon, self.norm)
        state = state.replace(iteration=state.iteration + 1, diagnostics=diagnostics)
        if self.restarts == 1:
            return state.replace(x=x, g=g)

        # Each run has one iteration more than steps: its last one judges where the steps have led.
        judging = state.iteration % (self.steps + 1) == 0
        margin = max_other_logit(logits, state.label) - logits[state.label]
        margin = -margin if self.targeted else margin
        better = judging & (margin > state.best_margin)
        restart = jax.random.fold_in(jax.random.fold_in(state.key, RESTART), state.iteration)
        start = self._start(state.image, restart)
        return state.replace(
            x=jnp.where(judging, start, x),
            g=jnp.where(judging, 0, g),
            best=jnp.where(better, state.x, state.best),
            best_margin=jnp.where(better, margin, state.best_margin),
        )

    def finished(self, state: State) -> jax.Array:
        return (state.iteration >= self.max_steps) | (self.stop_early & (state.best_margin > 0))

    def result(self, state: State) -> jax.Array:
        return state.x if self.restarts == 1 else state.best

    def _start(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if not self.random_start:
            return image
        if self.norm == "linf":
            noise = jax.random.uniform(key, image.shape, minval=-1, maxval=1)
        else:
            noise = jax.random.ball(key, image.size).reshape(image.shape)
        return project(image, image + self.epsilon * noise, self.epsilon, self.norm)


@REGISTRY.register("fgsm")
def fgsm(
    epsilon: Scalar = 10 / 255,
    *,
    random_start: bool = False,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """FGSM, equation (2): one step of ε along the sign of the gradient.

    The paper uses ε of 2, 5 and 10 levels of 255. With `random_start` the step is one of 1.25 ε from a random
    point of the ball: algorithm 3 of Wong, Rice and Kolter 2020 (arXiv:2001.03994).
    """
    check_epsilon(epsilon, "linf")
    check_loss(loss)
    return GradientSign(
        epsilon,
        step_size=1.25 * epsilon if random_start else epsilon,
        steps=1,
        random_start=random_start,
        targeted=targeted,
        loss=loss,
    )


@REGISTRY.register("ifgsm")
def ifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    steps: int = 10,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """I-FGSM, equation (3); the default step is ε / steps, as in the transfer-attack literature."""
    return mifgsm(epsilon, step_size=step_size, momentum=0.0, steps=steps, targeted=targeted, loss=loss)


@REGISTRY.register("mifgsm")
def mifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """MI-FGSM, equations (4) and (5); ε 16/255, 10 steps of ε/10 and μ 1 as its authors' code.

    The *gradient* is accumulated, divided by its L1 norm. (Some libraries accumulate its sign,
    which is another attack.)
    """
    check_count("steps", steps)
    check_epsilon(epsilon, "linf")
    check_numbers(momentum=momentum)
    check_loss(loss)
    step_size = epsilon / steps if step_size is None else step_size
    check_numbers(step_size=step_size)
    return GradientSign(epsilon, step_size, momentum, steps=steps, targeted=targeted, loss=loss)


@REGISTRY.register("di2fgsm")
def di2fgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar = 1 / 255,
    steps: int = 20,
    diversity: Scalar = 0.5,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """DI²-FGSM, equation (8); ε 16/255, 20 steps of 1/255 and p 0.5 as its authors' code.

    (They take int(min(ε + 4, 1.25 ε)) steps, with ε in levels: 20 for ε = 16.)
    """
    return mdi2fgsm(
        epsilon,
        step_size=step_size,
        momentum=0.0,
        steps=steps,
        diversity=diversity,
        targeted=targeted,
        loss=loss,
    )


@REGISTRY.register("mdi2fgsm")
def mdi2fgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar = 1 / 255,
    momentum: Scalar = 1.0,
    steps: int = 20,
    diversity: Scalar = 0.5,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """MDI²-FGSM, equation (9): DI²-FGSM with the momentum of MI-FGSM."""
    check_count("steps", steps)
    check_epsilon(epsilon, "linf")
    check_numbers(step_size=step_size, momentum=momentum)
    check_shares(diversity=diversity)
    check_loss(loss)
    return GradientSign(
        epsilon,
        step_size,
        momentum,
        diversity,
        steps=steps,
        diverse_inputs=True,
        targeted=targeted,
        loss=loss,
    )


@REGISTRY.register("pgd")
def pgd(
    epsilon: Scalar = 8 / 255,
    *,
    step_size: Scalar | None = None,
    steps: int = 40,
    norm: Norm = "linf",
    random_start: bool = True,
    restarts: int = 1,
    stop_early: bool = True,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """PGD (Madry et al. 2018): I-FGSM from a random start, in L∞ or L2, with restarts.

    The default step is 2.5 ε / steps, as the authors advise: enough to reach the border of the ball
    from any start and to move along it.
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_choice("norm", norm, ("linf", "l2"))
    check_epsilon(epsilon, norm)
    check_loss(loss)
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    check_numbers(step_size=step_size)
    return GradientSign(
        epsilon,
        step_size,
        steps=steps,
        norm=norm,
        random_start=random_start,
        restarts=restarts,
        stop_early=stop_early,
        targeted=targeted,
        loss=loss,
    )
