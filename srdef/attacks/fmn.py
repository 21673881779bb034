"""FMN: fast minimum-norm attacks in L0, L1, L2 and L∞.

Pintor, Roli, Brendel and Biggio 2021, "Fast minimum-norm adversarial attacks through adaptive norm
constraints" (arXiv:2102.12827), algorithm 1; parameters of their code
(maurapintor/Fast-Minimum-Norm-FMN-Attack).
"""

from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, is_adversarial
from srdef.attacks.diagnostics import usable
from srdef.attacks.nearest import Search, SearchState, annealed, furthest, lead_to_undo
from srdef.attacks.projections import DUAL, AnyNorm, length, project, project_l0, safe_divide, shrink_to_l1
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar, check_choice, check_count, check_positive, check_shares
from srdef.victims import Victim, expected

# Of the first step and of the first γ, what the last ones are.
_LAST_STEP, _LAST_GAMMA = 0.01, 0.001


class State(SearchState):
    """The loop's state of one image."""

    radius: jax.Array


@struct.dataclass
class FMN(Search):
    """Step along the gradient, then into a ball whose radius follows the distance to the boundary.

    With f the lead of the label over the best other class (targeted: of the best other class over the
    target), g its gradient at x_k and q the dual norm, α and γ annealed:

        ε_{k+1} = min((1 - γ) ε_k, distance of the nearest adversarial image)   if x_k is adversarial
                  (1 + γ) ε_k                                        if another one was before
                  max(||δ_k|| + |f| / ||g||_q, (1 + γ) ε_k)          else
        x_{k+1} = clip_[0, 1](the point of the ball of radius ε_{k+1} nearest to x_k - α g / ||g||_2)

    In L0, where there is no dual norm, ε counts values; it starts at 1 and grows and shrinks by the factor 1
    ± γ, by at least one value. (In foolbox one value more than ε may differ.) The result is the nearest
    adversarial x_k; the image itself if there is none, or if it is misclassified as it is.

    Two things differ from the authors' code. There the radius is ||δ_k|| + |f| / ||g||_q alone before the
    first adversarial image: where [0, 1] cuts the perturbation short, the search then stands still before the
    boundary. And where there is no gradient, δ_k grows by the factor 1 + γ, as in DDN.

    Parameters
    ----------
    step_size : float
        The first α, in units of the [0, 1] range; the last one is a hundredth of it.
    gamma : float
        The first γ; the last one is 0.001.
    steps : int
        Gradients for each image.
    norm : "l2", "linf", "l1" or "l0"
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    step_size: Scalar = 1.0
    gamma: Scalar = 0.05
    steps: int = struct.field(pytree_node=False, default=100)
    norm: AnyNorm = struct.field(pytree_node=False, default="l2")
    targeted: bool = struct.field(pytree_node=False, default=False)

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        return State.create(
            image,
            label,
            key,
            radius=jnp.full((), 1 if self.norm == "l0" else jnp.inf, image.dtype),
        )

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        state = super().start_at(victim, state, start)
        if self.norm != "l0":
            return state
        return state.replace(radius=jnp.maximum(state.radius, length(start - state.image, "l0")))

    def step(self, victim: Victim, state: State) -> State:
        key = jax.random.fold_in(state.key, state.iteration)

        def lead(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return expected(victim, lambda z: (lead_to_undo(z, state.label, self.targeted), z), x, key)

        (value, logits), gradient = value_and_grad(lead, state.x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, value, logits)
        distance = length(state.x - state.image, self.norm)
        nearest = state.nearest.update(state.x, distance, adversarial)

        gamma = annealed(self.gamma, _LAST_GAMMA, state.iteration, self.steps)
        shrunk, grown = state.radius * (1 - gamma), state.radius * (1 + gamma)
        if self.norm == "l0":
            shrunk = jnp.minimum(state.radius - 1, jnp.floor(shrunk))
            grown = jnp.maximum(state.radius + 1, jnp.floor(grown))
        else:
            boundary = safe_divide(jnp.abs(value), length(gradient, DUAL[self.norm]))
            boundary = jnp.where(usable(value, logits), boundary, 0)
            # Not the same radius again: rounding, or [0, 1], may have kept the image from the boundary.
            least = jnp.where(jnp.isfinite(state.radius), grown, 0)
            grown = jnp.where(nearest.found, grown, jnp.maximum(distance + boundary, least))
        radius = jnp.where(adversarial, jnp.minimum(shrunk, nearest.distance), grown)
        radius = jnp.minimum(radius, length(furthest(state.image), self.norm))

        size = annealed(self.step_size, _LAST_STEP * self.step_size, state.iteration, self.steps)
        x = state.x - size * safe_divide(gradient, length(gradient, "l2"))
        # Without a gradient on the way it goes on, as in DDN.
        lost = ~adversarial & ~(gradient != 0).any()
        x = jnp.where(lost, state.image + (1 + gamma) * (state.x - state.image), x)
        if self.norm == "l0":
            radius = jnp.maximum(radius, 1)
            # Cut off first: where [0, 1] leaves little room, a value is worth little.
            difference = jnp.clip(x, 0, 1) - state.image
            x = state.image + project_l0(difference, radius)
        elif self.norm == "l1":
            x = state.image + shrink_to_l1(x - state.image, radius)
        else:
            x = project(state.image, x, radius, self.norm)
        return state.replace(
            iteration=state.iteration + 1,
            x=jnp.clip(x, 0, 1),
            radius=radius,
            nearest=nearest,
            diagnostics=diagnostics,
        )


@REGISTRY.register("fmn")
def fmn(
    *,
    steps: int = 100,
    norm: AnyNorm = "l2",
    step_size: Scalar | None = None,
    gamma: Scalar = 0.05,
    targeted: bool = False,
) -> FMN:
    """FMN with a first step of 1 and γ 0.05, as its authors have them on ImageNet."""
    check_count("steps", steps)
    check_choice("norm", norm, get_args(AnyNorm))
    if step_size is None:
        step_size = 1.0
    check_positive(step_size=step_size)
    check_shares(gamma=gamma)
    return FMN(step_size, gamma, steps, norm, targeted)
