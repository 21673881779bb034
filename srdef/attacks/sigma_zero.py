"""σ-zero: the fewest values changed, by a smooth stand-in for their number.

Cinà, Villani, Pintor, Schönherr, Biggio and Pelillo 2024, "σ-zero: gradient-based optimization of l0-norm
adversarial examples" (arXiv:2402.01879), algorithm 1; parameters of their code
(sigma0-advx/sigma-zero).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from srdef.attacks.base import REGISTRY, is_adversarial
from srdef.attacks.nearest import Search, SearchState, annealed, lead_to_undo
from srdef.attacks.projections import AnyNorm, length, safe_divide
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar, check_count, check_numbers, check_positive, check_shares
from srdef.victims import Victim, expected

_ADAM = optax.scale_by_adam()
# Of the first step, what the last one is.
_LAST_STEP = 0.1


class State(SearchState):
    """The loop's state of one image."""

    adam: Any
    threshold: jax.Array


@struct.dataclass
class SigmaZero(Search):
    """Descend on a hinge and a smooth count of changed values; drop the values that change little.

    With δ the perturbation of n values and f the lead of the label over the best other class (targeted: of
    the best other class over the target), the gradient of

        max(f, 0) + (1 / n) Σ δ_i² / (δ_i² + σ)

    is divided by its largest value and given to Adam, whose step η is annealed from `step_size` to a tenth of
    it. After each step values below the threshold τ become those of the image; τ grows by `adjustment` η
    where the image was adversarial and falls by that where it was not. The result is the adversarial image
    with the fewest changed values; the image itself if there is none, or if it is misclassified as it is.

    Parameters
    ----------
    step_size : float
        The first η, in units of the [0, 1] range.
    sigma : float
        σ, how smooth the count is.
    threshold : float
        The first τ, in units of the [0, 1] range.
    adjustment : float
        How much τ moves with a step of 1.
    steps : int
        Gradients for each image.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    step_size: Scalar = 1.0
    sigma: Scalar = 1e-3
    threshold: Scalar = 0.3
    adjustment: Scalar = 0.01
    steps: int = struct.field(pytree_node=False, default=1000)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: AnyNorm = struct.field(pytree_node=False, default="l0")

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        return State.create(
            image,
            label,
            key,
            adam=_ADAM.init(image),
            threshold=jnp.asarray(self.threshold, image.dtype),
        )

    def step(self, victim: Victim, state: State) -> State:
        key = jax.random.fold_in(state.key, state.iteration)

        def hinge(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            def loss(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
                return jnp.maximum(lead_to_undo(logits, state.label, self.targeted), 0), logits

            return expected(victim, loss, x, key)

        (value, logits), gradient = value_and_grad(hinge, state.x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, value, logits)
        change = state.x - state.image
        nearest = state.nearest.update(state.x, length(change, "l0"), adversarial)

        gradient += 2 * self.sigma * change / (change**2 + self.sigma) ** 2 / change.size
        gradient = safe_divide(gradient, length(gradient, "linf"))
        update, adam = _ADAM.update(gradient, state.adam)
        # As in the authors' code the step is annealed after it, and the threshold follows the next one.
        size, next_size = (
            annealed(self.step_size, _LAST_STEP * self.step_size, iteration, self.steps)
            for iteration in (jnp.maximum(state.iteration - 1, 0), state.iteration)
        )
        change = jnp.clip(state.x - size * update, 0, 1) - state.image
        move = self.adjustment * next_size
        threshold = jnp.clip(state.threshold + jnp.where(adversarial, move, -move), 0, 1)
        # Where nothing is left of a change, the image's value to the bit.
        x = jnp.where(jnp.abs(change) < threshold, state.image, jnp.clip(state.image + change, 0, 1))
        return state.replace(
            iteration=state.iteration + 1,
            x=x,
            adam=adam,
            threshold=threshold,
            nearest=nearest,
            diagnostics=diagnostics,
        )

    def finished(self, state: State) -> jax.Array:
        # Nothing is fewer than one value.
        return state.nearest.distance <= 1


@REGISTRY.register("sigma_zero")
def sigma_zero(
    *,
    steps: int = 1000,
    step_size: Scalar = 1.0,
    sigma: Scalar = 1e-3,
    threshold: Scalar = 0.3,
    adjustment: Scalar = 0.01,
    targeted: bool = False,
) -> SigmaZero:
    """σ-zero with its authors' 1000 steps from 1, σ 0.001, τ from 0.3."""
    check_count("steps", steps)
    check_positive(step_size=step_size, sigma=sigma)
    check_numbers(adjustment=adjustment)
    check_shares(threshold=threshold)
    return SigmaZero(step_size, sigma, threshold, adjustment, steps, targeted)
