"""SPSA: steps along gradients that are estimated from scores.

Uesato, O'Donoghue, van den Oord and Kohli 2018, "Adversarial risk and the dangers of evaluating against weak
attacks" (arXiv:1802.05666), section 4.2 and algorithm 1.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.losses import Loss, check_loss, loss_to_climb
from srdef.attacks.projections import Norm
from srdef.validation import Scalar, check_choice, check_count, check_epsilon, check_positive
from srdef.victims import Directions, EstimatedGradient, Victim


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    x: jax.Array
    adam: optax.OptState
    adversarial: jax.Array
    diagnostics: Diagnostics


@struct.dataclass
class SPSA(Attack):
    """Adam along an estimate of the loss's gradient, projected onto a ball; it asks for nothing but logits.

    With g_t the gradient of the loss at x_t that `victims.EstimatedGradient` estimates from `samples` pairs
    of images, and Adam with β 0.9 and 0.999:

        x_{t+1} = clip_ε(x_t + learning_rate * Adam(g_t))

    The result is the last x_t, or the first that is adversarial, after which an image takes no more steps
    (`stop_early`). Each step is 2 `samples` + 1 calls of the victim.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    learning_rate : float
        In the same unit, as Adam's steps are about 1.
    radius : float
        δ: how far from x_t the victim is asked, in the same unit.
    steps : int
    samples : int
        n, the number of directions of each step.
    directions : "sign" or "gaussian"
    norm : "linf" or "l2"
    loss : "margin", "cross_entropy", "dlr", "logit" or callable
        See `losses.Loss`; the margin is the authors'.
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach.
    chunk : int, optional
        How many directions are computed at a time; None: all.
    """

    counts: ClassVar = ("steps",)
    epsilon: Scalar
    learning_rate: Scalar = 0.01
    radius: Scalar = 0.01
    steps: int = struct.field(pytree_node=False, default=100)
    samples: int = struct.field(pytree_node=False, default=128)
    directions: Directions = struct.field(pytree_node=False, default="sign")
    norm: Norm = struct.field(pytree_node=False, default="linf")
    loss: Loss = struct.field(pytree_node=False, default="margin")
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)
    chunk: int | None = struct.field(pytree_node=False, default=1)

    @property
    def stops_early(self) -> bool:
        return self.stop_early

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        adam = _ADAM.init(image)
        return State(image, label, key, jnp.int32(0), image, adam, jnp.bool_(False), Diagnostics.create())

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        return state.replace(x=start)

    def step(self, victim: Victim, state: State) -> State:
        iteration = state.iteration + 1
        key = jax.random.fold_in(state.key, iteration)
        seen = EstimatedGradient(victim, self.samples, self.radius, self.directions, self.chunk)

        def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return loss_to_climb(seen, x, state.label, key, self.loss, self.targeted)

        (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(state.x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, value, logits)
        update, adam = _ADAM.update(gradient, state.adam)
        done = self.stop_early & adversarial
        x = self.into_ball(state.image, state.x + self.learning_rate * update)
        return state.replace(
            iteration=iteration,
            x=jnp.where(done, state.x, x),
            adam=adam,
            adversarial=done,
            diagnostics=diagnostics,
        )

    def finished(self, state: State) -> jax.Array:
        return state.adversarial

    def result(self, state: State) -> jax.Array:
        return state.x


_ADAM = optax.scale_by_adam()


@REGISTRY.register("spsa")
def spsa(
    epsilon: Scalar = 8 / 255,
    *,
    steps: int = 100,
    samples: int = 128,
    learning_rate: Scalar = 0.01,
    radius: Scalar = 0.01,
    directions: Directions = "sign",
    norm: Norm = "linf",
    loss: Loss = "margin",
    stop_early: bool = True,
    targeted: bool = False,
    chunk: int | None = 1,
) -> SPSA:
    """SPSA with the authors' learning rate, δ and loss, and the 128 directions of advertorch.

    The authors take up to 8192 directions and 100 steps. With `directions="gaussian"` the gradient is that of
    NES; `pgd` on `victims.EstimatedGradient(victim, directions="gaussian")` is its attack.
    """
    check_choice("norm", norm, ("linf", "l2"))
    check_epsilon(epsilon, norm)
    check_count("steps", steps)
    check_positive(learning_rate=learning_rate, radius=radius)
    check_loss(loss)
    EstimatedGradient(None, samples, radius, directions, chunk)  # checks the rest
    return SPSA(
        epsilon, learning_rate, radius, steps, samples, directions, norm, loss, stop_early, targeted, chunk
    )
