"""ALMA: the smallest L2 or L1 perturbation by an augmented Lagrangian.

Rony, Granger, Pedersoli and Ben Ayed 2021, "Augmented Lagrangian adversarial attacks" (arXiv:2011.11857),
algorithm 2 with the penalty P2; parameters of their code (jeromerony/adversarial-library,
`augmented_lagrangian.py`).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, is_adversarial
from srdef.attacks.diagnostics import usable
from srdef.attacks.losses import without_masked_classes
from srdef.attacks.nearest import Search, SearchState, lead_to_undo
from srdef.attacks.projections import Norm, length, safe_divide
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar, check_choice, check_count, check_positive, check_shares
from srdef.victims import Victim, expected

# How far over the boundary the constraint asks an image to be, in logits.
_TOLERANCE = 1e-4
# Every so many steps ρ grows by the factor, unless the constraint has fallen to this share.
_CHECK_STEPS, _GROWTH, _IMPROVED = 10, 1.2, 0.95
_LEAST_MULTIPLIER, _LARGEST_MULTIPLIER = 1e-6, 1e12
# Halvings of the search for the first step; its size is 2 to a power between these.
_HALVINGS, _LOWEST_POWER, _HIGHEST_POWER = 30, -60.0, 60.0


class State(SearchState):
    """The loop's state of one image."""

    rate: jax.Array
    squares: jax.Array  # the mean square of the gradient, value by value
    momentum: jax.Array
    multiplier: jax.Array  # μ
    penalty: jax.Array  # ρ
    checked: jax.Array  # the constraint at the last check
    found_at: jax.Array  # the iteration of the first adversarial x


@struct.dataclass
class ALMA(Search):
    """Descend on distance plus a penalty on the constraint, whose weight is adapted image by image.

    The constraint is g(x) <= 0, with g the lead of the label over the best other class (targeted: of the best
    other class over the target) divided by the difference between the largest and the third largest logit
    (targeted: the mean of the third and fourth). The gradient of

        ||x - image|| + P(g(x), ρ, μ),    P = μ g + μ ρ g² + ρ² g³ / 6    for g >= 0
                                          P = μ g / (1 - ρ g)             else

    goes through RMSProp with momentum. μ follows the derivative of P in g, averaged with weight 1 - α. ρ
    grows by a fifth every 10 steps while nothing is found and g has not fallen by 5 %. The first step ends
    at the distance `first_distance`, or, where [0, 1] has no room for that along the gradient, at half of the
    distance that it has room for. From the first adversarial image on steps shrink exponentially to
    `reduction` of the first. The result is the nearest adversarial x; the image itself if there is none, or
    if it is misclassified as it is.

    With too few classes for the quotient g is the lead alone.

    Parameters
    ----------
    first_distance : float
        In units of the [0, 1] range; how far the first step goes.
    reduction : float
    smoothing : float
        α, of μ and of RMSProp.
    steps : int
        Gradients for each image.
    norm : "l2" or "l1"
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    first_distance: Scalar = 1.0
    reduction: Scalar = 0.01
    smoothing: Scalar = 0.9
    steps: int = struct.field(pytree_node=False, default=1000)
    norm: Norm = struct.field(pytree_node=False, default="l2")
    targeted: bool = struct.field(pytree_node=False, default=False)

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        one = jnp.ones((), image.dtype)
        return State.create(
            image,
            label,
            key,
            rate=jnp.zeros_like(one),
            squares=jnp.ones_like(image),
            momentum=jnp.zeros_like(image),
            multiplier=one,
            penalty=one,
            checked=one,
            found_at=jnp.int32(self.steps + 1),
        )

    def step(self, victim: Victim, state: State) -> State:
        key = jax.random.fold_in(state.key, state.iteration)

        def constraint(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return expected(victim, lambda z: (self._constraint(z, state.label), z), x, key)

        (value, logits), gradient = value_and_grad(constraint, state.x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, value, logits)
        change = state.x - state.image
        distance = length(change, self.norm)
        # Without a value the multipliers stay as they are, and only the distance pulls.
        known = usable(value, logits)
        value = jnp.where(known, value, 0)

        first = state.iteration == 0
        check = known & ((state.iteration + 1) % _CHECK_STEPS == 0)
        stuck = check & ~state.nearest.found & (value >= _IMPROVED * state.checked)
        penalty = state.penalty * jnp.where(stuck, _GROWTH, 1)
        wanted = _slope(value, penalty, state.multiplier)
        multiplier = self.smoothing * state.multiplier + (1 - self.smoothing) * wanted
        multiplier = jnp.clip(multiplier, _LEAST_MULTIPLIER, _LARGEST_MULTIPLIER)
        multiplier = jnp.where(known & ~first, multiplier, state.multiplier)

        # That of the distance is zero at the image.
        pull = jnp.sign(change) if self.norm == "l1" else safe_divide(change, distance)
        gradient = pull + jnp.where(known, _slope(value, penalty, multiplier) * gradient, 0)
        # Without a gradient there is no first step yet.
        unmoved = state.rate == 0
        rate = jnp.where(unmoved, self._first_rate(state.image, gradient), state.rate)
        found_at = jnp.where(adversarial, jnp.minimum(state.found_at, state.iteration), state.found_at)
        elapsed = jnp.maximum(state.iteration - found_at, 0) / jnp.maximum(self.steps - found_at, 1)
        squares = self.smoothing * state.squares + (1 - self.smoothing) * gradient**2
        momentum = self.smoothing * state.momentum + gradient / (jnp.sqrt(squares) + 1e-8)
        x = jnp.clip(state.x - rate * self.reduction**elapsed * momentum, 0, 1)
        return state.replace(
            iteration=state.iteration + 1,
            x=x.astype(state.image.dtype),
            rate=rate,
            squares=squares,
            momentum=momentum,
            multiplier=multiplier,
            penalty=penalty,
            checked=jnp.where(known & first | check, value, state.checked),
            found_at=found_at,
            nearest=state.nearest.update(state.x, distance, adversarial),
            diagnostics=diagnostics,
        )

    def _constraint(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        lead = lead_to_undo(logits, label, self.targeted) + _TOLERANCE
        lowest = 4 if self.targeted else 3
        if len(logits) < lowest:
            return lead
        ordered, _ = jax.lax.top_k(without_masked_classes(logits), lowest)
        return lead / (ordered[0] - ordered[2:].mean() + 1e-8)

    def _first_rate(self, image: jax.Array, gradient: jax.Array) -> jax.Array:
        """The size of a step along the gradient that ends at the first distance; 0 without a gradient."""

        def distance(power: Scalar) -> jax.Array:
            return length(jnp.clip(image - 2**power * gradient, 0, 1) - image, self.norm)

        # [0, 1] may leave no room for the first distance, as where few values have a gradient.
        largest = distance(_HIGHEST_POWER)
        wanted = jnp.where(self.first_distance < largest, self.first_distance, largest / 2)

        def halve(_: int, powers: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = powers
            middle = (low + high) / 2
            far = distance(middle) > wanted
            return jnp.where(far, low, middle), jnp.where(far, middle, high)

        ends = jnp.full((), _LOWEST_POWER, image.dtype), jnp.full((), _HIGHEST_POWER, image.dtype)
        low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
        return jnp.where(largest > 0, 2**low, 0)


def _slope(value: jax.Array, penalty: jax.Array, multiplier: jax.Array) -> jax.Array:
    """The derivative of P in g."""
    above = multiplier * (1 + 2 * penalty * value) + penalty**2 * value**2 / 2
    below = multiplier / (1 - penalty * jnp.minimum(value, 0)) ** 2
    return jnp.where(value >= 0, above, below)


@REGISTRY.register("alma")
def alma(
    *,
    steps: int = 1000,
    norm: Norm = "l2",
    first_distance: Scalar = 1.0,
    reduction: Scalar = 0.01,
    smoothing: Scalar = 0.9,
    targeted: bool = False,
) -> ALMA:
    """ALMA with its authors' α 0.9 and 1000 steps, and a first distance of 1."""
    check_count("steps", steps)
    check_choice("norm", norm, ("l2", "l1"))
    check_positive(first_distance=first_distance)
    check_shares(reduction=reduction, smoothing=smoothing)
    return ALMA(first_distance, reduction, smoothing, steps, norm, targeted)
