"""EAD: elastic-net attacks, the smallest perturbation in L1 or in a mixture of L1 and L2.

Chen, Sharma, Zhang, Yi and Hsieh 2018, "EAD: elastic-net attacks to deep neural networks via adversarial
examples" (arXiv:1709.04114), algorithm 1; parameters of their code (ysharma1126/EAD_Attack, `en_attack.py`).
"""

from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.nearest import Constant, Nearest, lead_to_undo
from srdef.attacks.projections import Norm
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar, check_choice, check_count, check_numbers, check_positive
from srdef.victims import Victim, expected

Rule = Literal["elastic_net", "l1"]


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    x: jax.Array
    y: jax.Array  # where the next gradient is taken: x and its momentum
    start: jax.Array  # where every value of c starts
    constant: Constant
    nearest: Nearest
    diagnostics: Diagnostics


@struct.dataclass
class EAD(Attack):
    """Shrink the perturbation towards zero while a hinge pushes the image over the boundary (FISTA).

    Minimise c f(x) + ||x - image||_2² + β ||x - image||_1 over x in [0, 1], with f the hinge of Carlini and
    Wagner, the lead of the label over the best other class plus `confidence`, at least 0 (targeted: of the
    best other class over the target):

        x_{k+1} = S_β(y_k - α_k ∇(c f + ||· - image||_2²)(y_k)),    α_k = α_0 sqrt(1 - k / iterations)
        y_{k+1} = x_{k+1} + k / (k + 3) (x_{k+1} - x_k)

    S_β moves each value by β towards that of the image, not beyond it, and into [0, 1]. c starts at
    `initial_const`, is multiplied by 10 until an adversarial image is found, and then bisected. The result is
    the nearest adversarial x_k of all, in the sense of `rule`; the image itself if there is none, or if it is
    misclassified as it is.

    An image leaves a value of c early as it does in `CarliniWagner`, alone, and only once something is found.

    Parameters
    ----------
    learning_rate : float
        α_0.
    initial_const : float
        The first c.
    beta : float
        β; with 0 the perturbation is small in L2 alone.
    confidence : float
        κ, by how much a wrong class must lead.
    rule : "elastic_net" or "l1"
        Nearest in ||·||_2² + β ||·||_1, or in L1.
    binary_search_steps : int
        Number of values of c.
    max_iterations : int
        Most iterations for each of them; each takes a gradient and a prediction.
    abort_early : bool
        Whether an image leaves a c that makes no progress.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("binary_search_steps", "max_iterations")
    learning_rate: Scalar = 1e-2
    initial_const: Scalar = 1e-3
    beta: Scalar = 1e-2
    confidence: Scalar = 0.0
    rule: Rule = struct.field(pytree_node=False, default="elastic_net")
    binary_search_steps: int = struct.field(pytree_node=False, default=9)
    max_iterations: int = struct.field(pytree_node=False, default=1000)
    abort_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: Norm = struct.field(pytree_node=False, default="l1")

    @property
    def max_steps(self) -> int:
        return self.binary_search_steps * self.max_iterations

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        already = is_adversarial(self, victim(image, jax.random.fold_in(key, 0)), label)
        return State(
            image,
            label,
            key,
            x=image,
            y=image,
            start=image,
            constant=Constant.create(
                self.initial_const, jnp.where(already, jnp.int32(self.binary_search_steps), 0), image.dtype
            ),
            nearest=Nearest.create(image),
            diagnostics=Diagnostics.create(),
        )

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        return state.replace(x=start, y=start, start=start)

    def step(self, victim: Victim, state: State) -> State:
        constant = state.constant
        number = 1 + constant.search * self.max_iterations + constant.iteration
        gradient_key, judge_key = jax.random.split(jax.random.fold_in(state.key, number))

        def hinge(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return expected(victim, lambda z: (self._hinge(z, state.label), z), x, gradient_key)

        (value, logits), gradient = value_and_grad(hinge, state.y)
        reached = self._reached(logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, reached, value, logits)
        change = state.y - state.image
        loss = constant.value * value + jnp.sum(change**2)
        rate = self.learning_rate * jnp.sqrt(1 - constant.iteration / self.max_iterations)
        moved = state.y - rate * (constant.value * gradient + 2 * change)
        x = _shrunk(moved, state.image, self.beta).astype(state.image.dtype)

        reached = self._reached(victim(x, judge_key), state.label)
        difference = x - state.image
        distance = jnp.abs(difference).sum()
        if self.rule == "elastic_net":
            distance = distance * self.beta + jnp.sum(difference**2)
        nearest = state.nearest.update(x, distance, reached)
        momentum = constant.iteration / (constant.iteration + 3)
        y = x + momentum * (x - state.x)
        constant, over = constant.update(loss, reached, nearest.found, self.max_iterations, self.abort_early)
        return state.replace(
            x=jnp.where(over, state.start, x),
            y=jnp.where(over, state.start, y),
            constant=constant,
            nearest=nearest,
            diagnostics=diagnostics,
        )

    def _hinge(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        return jnp.maximum(lead_to_undo(logits, label, self.targeted) + self.confidence, 0)

    def _reached(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """Whether a wrong class (targeted: the target) leads by the confidence."""
        far = lead_to_undo(logits, label, self.targeted) <= -self.confidence
        return is_adversarial(self, logits, label) & far

    def finished(self, state: State) -> jax.Array:
        return state.constant.search >= self.binary_search_steps

    def result(self, state: State) -> jax.Array:
        return state.nearest.image


def _shrunk(x: jax.Array, image: jax.Array, amount: Scalar) -> jax.Array:
    """Every value of `x` moved by `amount` towards that of the image, not beyond it, and into [0, 1]."""
    difference = x - image
    # Values within `amount` become the image's to the bit.
    return jnp.where(jnp.abs(difference) > amount, jnp.clip(x - amount * jnp.sign(difference), 0, 1), image)


@REGISTRY.register("ead")
def ead(
    *,
    rule: Rule = "elastic_net",
    beta: Scalar = 1e-2,
    learning_rate: Scalar = 1e-2,
    initial_const: Scalar = 1e-3,
    confidence: Scalar = 0.0,
    binary_search_steps: int = 9,
    max_iterations: int = 1000,
    abort_early: bool = True,
    targeted: bool = False,
) -> EAD:
    """EAD with its authors' β 0.01, 9 values of c from 1e-3, 1000 iterations of 1e-2."""
    check_choice("rule", rule, get_args(Rule))
    check_count("binary_search_steps", binary_search_steps)
    check_count("max_iterations", max_iterations)
    check_positive(learning_rate=learning_rate, initial_const=initial_const)
    check_numbers(beta=beta, confidence=confidence)
    return EAD(
        learning_rate,
        initial_const,
        beta,
        confidence,
        rule,
        binary_search_steps,
        max_iterations,
        abort_early,
        targeted,
    )
