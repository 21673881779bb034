"""DDN: the smallest L2 perturbation, with direction and norm decoupled.

Rony, Hafemann, Oliveira, Ben Ayed, Sabourin and Granger 2019, "Decoupling direction and norm for efficient
gradient-based L2 adversarial attacks and defenses" (arXiv:1811.09600), algorithm 1; parameters of their code
(jeromerony/fast_adv, and jeromerony/adversarial-library, `decoupled_direction_norm.py`).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, is_adversarial
from srdef.attacks.losses import loss_to_climb
from srdef.attacks.nearest import Search, SearchState, annealed, furthest
from srdef.attacks.projections import Norm, length, safe_divide
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar, check_count, check_positive, check_shares
from srdef.victims import Victim

# Between which the step is annealed, in units of the [0, 1] range.
_FIRST_STEP, _LAST_STEP = 1.0, 0.01


class State(SearchState):
    """The loop's state of one image."""

    radius: jax.Array


@struct.dataclass
class DDN(Search):
    """Step along the gradient, then onto a sphere that shrinks where the image is adversarial.

    With g the gradient of the cross-entropy at x_k (targeted: its negative), α annealed from 1 to 0.01:

        δ_{k+1} = δ_k + α g / ||g||_2
        ε_{k+1} = (1 - γ) ε_k if x_k is adversarial, else (1 + γ) ε_k
        x_{k+1} = clip_[0, 1](image + ε_{k+1} δ_{k+1} / ||δ_{k+1}||_2)

    The result is the nearest adversarial x_k; the image itself if there is none, or if it is misclassified as
    it is. The authors round every x_k to 8 bits; here the result is rounded where that is asked for.

    Parameters
    ----------
    radius : float
        ε_0, in units of the [0, 1] range.
    gamma : float
        γ.
    steps : int
        Gradients for each image.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    radius: Scalar = 1.0
    gamma: Scalar = 0.05
    steps: int = struct.field(pytree_node=False, default=100)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: Norm = struct.field(pytree_node=False, default="l2")

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        return State.create(image, label, key, radius=jnp.asarray(self.radius, image.dtype))

    def step(self, victim: Victim, state: State) -> State:
        key = jax.random.fold_in(state.key, state.iteration)
        (value, logits), gradient = value_and_grad(
            lambda x: loss_to_climb(victim, x, state.label, key), state.x
        )
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, value, logits)
        perturbation = state.x - state.image
        nearest = state.nearest.update(state.x, length(perturbation, "l2"), adversarial)

        direction = safe_divide(gradient, length(gradient, "l2"))
        size = annealed(_FIRST_STEP, _LAST_STEP, state.iteration, self.steps)
        perturbation += (-size if self.targeted else size) * direction
        radius = state.radius * jnp.where(adversarial, 1 - self.gamma, 1 + self.gamma)
        radius = jnp.minimum(radius, length(furthest(state.image), "l2"))
        perturbation = radius * safe_divide(perturbation, length(perturbation, "l2"))
        return state.replace(
            iteration=state.iteration + 1,
            x=jnp.clip(state.image + perturbation, 0, 1),
            radius=radius,
            nearest=nearest,
            diagnostics=diagnostics,
        )


@REGISTRY.register("ddn")
def ddn(*, steps: int = 100, radius: Scalar = 1.0, gamma: Scalar = 0.05, targeted: bool = False) -> DDN:
    """DDN with its authors' first radius of 1 and γ 0.05; they take 100, 300 or 1000 steps."""
    check_count("steps", steps)
    check_positive(radius=radius)
    check_shares(gamma=gamma)
    return DDN(radius, gamma, steps, targeted)
