"""The L2 attack of Carlini and Wagner.

Carlini and Wagner 2017 (arXiv:1608.04644), equations (6) and (7) of the paper; search and stopping
as in the authors' code (carlini/nn_robust_attacks, `l2_attack.py`), but for each image alone.
"""

from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics, usable
from srdef.attacks.nearest import Constant, Nearest, lead_to_undo
from srdef.validation import Scalar, check_choice, check_count, check_numbers, check_positive
from srdef.victims import Victim, expected

Preset = Literal["paper", "original"]

# Of the libraries: keeps arctanh finite at black and white.
_INSIDE = 0.999999
# Values nearer to black or white are moved as if they were this far away: one level of 8 bits.
_MARGIN = 1 / 255

_ADAM = optax.scale_by_adam()


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    perturbation: jax.Array  # of the image in tanh space, what Adam moves
    adam: Any
    start: jax.Array  # the perturbation with which every value of c starts
    constant: Constant
    nearest: Nearest  # with the square of its distance
    diagnostics: Diagnostics


@struct.dataclass
class CarliniWagner(Attack):
    """The smallest L2 perturbation by Adam in tanh space, with a search over the constant c.

    For x(ω) = (tanh(ω) + 1) / 2 minimise

        ||x(ω) - image||_2² + c * max(Z_label - max_{k != label} Z_k + confidence, 0)

    (targeted: the difference the other way round). c starts at `initial_const`, is multiplied by 10
    until an adversarial image is found, and then bisected. The nearest adversarial image of all
    iterations is kept. An image leaves a value of c when its least loss in a tenth of the iterations
    (but at least 20) is not lower by a 10000th than in the tenth before, and does all of this alone,
    so that a result does not depend on the batch. An image that is misclassified already stays as it
    is, and so does one for which nothing is found.

    Two things differ from the authors' code. No value of c is left early before anything is found: a
    loss that hardly falls may be all there is of a gradient. And black and white, where tanh is so flat
    that the gradient is a millionth and the search does not get away, move along the curve of a value
    one level inside, shifted to start where they are, and cut off at 0 and 1.

    Parameters
    ----------
    learning_rate : float
        Of Adam.
    initial_const : float
        The first c.
    confidence : float
        κ, by how much a wrong class must lead.
    binary_search_steps : int
        Number of values of c.
    max_iterations : int
        Most iterations for each of them.
    abort_early : bool
        Whether an image leaves a c that makes no progress.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("binary_search_steps", "max_iterations")
    learning_rate: Scalar = 5e-3
    initial_const: Scalar = 1e-2
    confidence: Scalar = 0.0
    binary_search_steps: int = struct.field(pytree_node=False, default=5)
    max_iterations: int = struct.field(pytree_node=False, default=1000)
    abort_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm = "l2"

    @property
    def max_steps(self) -> int:
        return self.binary_search_steps * self.max_iterations

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        zeros = jnp.zeros_like(image)
        already = is_adversarial(self, victim(image, jax.random.fold_in(key, 0)), label)
        return State(
            image,
            label,
            key,
            perturbation=zeros,
            start=zeros,
            adam=_ADAM.init(zeros),
            constant=Constant.create(
                self.initial_const, jnp.where(already, jnp.int32(self.binary_search_steps), 0), image.dtype
            ),
            nearest=Nearest.create(image),
            diagnostics=Diagnostics.create(),
        )

    def current(self, state: State) -> jax.Array:
        return _moved(state.image, state.perturbation)

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        perturbation = _to_move(state.image, start).astype(start.dtype)
        return state.replace(perturbation=perturbation, start=perturbation)

    def step(self, victim: Victim, state: State) -> State:
        constant = state.constant
        number = 1 + constant.search * self.max_iterations + constant.iteration
        key = jax.random.fold_in(state.key, number)

        def loss(perturbation: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            x = _moved(state.image, perturbation)
            hinge, logits = expected(victim, lambda z: (self._hinge(z, state.label), z), x, key)
            l2 = jnp.sum((x - state.image) ** 2)
            value = (l2 + constant.value * hinge).astype(l2.dtype)
            reached = lead_to_undo(logits, state.label, self.targeted) <= -self.confidence
            success = is_adversarial(self, logits, state.label) & reached
            return value, (x, l2, success, logits)

        # Not `gradients.value_and_grad`: with its rounding, the search for an image in a batch of one ended
        # further from where it ends in a larger batch.
        (value, (x, l2, success, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.perturbation
        )
        # The gradient is zero where the image itself is and an adversarial one needs no hinge: no fault.
        resting = success | (constant.iteration > 0)
        gradient, diagnostics = state.diagnostics.check(gradient, resting, value, logits)
        update, adam = _ADAM.update(gradient, state.adam)
        nearest = state.nearest.update(x, l2, success)
        moved = state.perturbation - self.learning_rate * update
        # Back to where the victim may have an answer.
        moved = jnp.where(usable(value, logits), moved, state.perturbation / 2).astype(update.dtype)
        constant, over = constant.update(value, success, nearest.found, self.max_iterations, self.abort_early)
        perturbation, adam = jax.tree.map(
            lambda new, old: jnp.where(over, new, old), (state.start, _ADAM.init(moved)), (moved, adam)
        )
        return state.replace(
            perturbation=perturbation,
            adam=adam,
            constant=constant,
            nearest=nearest,
            diagnostics=diagnostics,
        )

    def _hinge(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        return jnp.maximum(lead_to_undo(logits, label, self.targeted) + self.confidence, 0)

    def finished(self, state: State) -> jax.Array:
        return state.constant.search >= self.binary_search_steps

    def result(self, state: State) -> jax.Array:
        return state.nearest.image


def _moved(image: jax.Array, perturbation: jax.Array) -> jax.Array:
    """The image after a perturbation in tanh space; differentiable also where it is cut off at 0 or 1."""
    inside, shift = _inside(image)
    x = (jnp.tanh(jnp.arctanh(inside) + perturbation) + 1) / 2 + shift
    return x + jax.lax.stop_gradient(jnp.clip(x, 0, 1) - x)


def _inside(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where tanh is steep enough, in [-1, 1], and how far from there black and white are."""
    inside = jnp.clip((2 * image - 1) * _INSIDE, 2 * _MARGIN - 1, 1 - 2 * _MARGIN)
    saturated = (image < _MARGIN) | (image > 1 - _MARGIN)
    return inside, jnp.where(saturated, image - (inside + 1) / 2, 0)


def _to_move(image: jax.Array, x: jax.Array) -> jax.Array:
    """The perturbation in tanh space that moves the image to `x`; none where they are equal."""
    inside, shift = _inside(image)
    wanted = jnp.clip(2 * (x - shift) - 1, -_INSIDE, _INSIDE)
    return jnp.where(x == image, 0, jnp.arctanh(wanted) - jnp.arctanh(inside))


_PRESETS: dict[str, dict[str, float]] = {
    "paper": {"learning_rate": 5e-3, "initial_const": 1e-2, "binary_search_steps": 5, "max_iterations": 1000},
    "original": {
        "learning_rate": 1e-2,
        "initial_const": 1e-3,
        "binary_search_steps": 9,
        "max_iterations": 10000,
    },
}


@REGISTRY.register("carlini_wagner")
def carlini_wagner(
    preset: Preset = "paper",
    *,
    learning_rate: Scalar | None = None,
    initial_const: Scalar | None = None,
    confidence: Scalar = 0.0,
    binary_search_steps: int | None = None,
    max_iterations: int | None = None,
    abort_early: bool = True,
    targeted: bool = False,
) -> CarliniWagner:
    """C&W L2 with the numbers of a preset, any of which may be given instead.

    "paper": 5 values of c from 1e-2, 1000 iterations of 5e-3, the defaults of the libraries of 2018 that
    the paper used (cleverhans, Foolbox 1.8). "original": 9 values of c from 1e-3, 10000 iterations of
    1e-2, as Carlini's code.
    """
    check_choice("preset", preset, get_args(Preset))
    given: dict[str, Any] = {
        "learning_rate": learning_rate,
        "initial_const": initial_const,
        "binary_search_steps": binary_search_steps,
        "max_iterations": max_iterations,
    }
    options: dict[str, Any] = _PRESETS[preset] | {k: v for k, v in given.items() if v is not None}
    check_count("binary_search_steps", options["binary_search_steps"])
    check_count("max_iterations", options["max_iterations"])
    check_positive(learning_rate=options["learning_rate"], initial_const=options["initial_const"])
    check_numbers(confidence=confidence)
    return CarliniWagner(confidence=confidence, abort_early=abort_early, targeted=targeted, **options)
