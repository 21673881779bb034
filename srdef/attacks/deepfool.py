"""DeepFool, in L2 and L∞.

Moosavi-Dezfooli et al. 2016 (arXiv:1511.04599); the parameters are those of the authors' code.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, START, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.projections import Norm
from srdef.cpu.gradients import values_and_grads
from srdef.errors import InputError
from srdef.validation import Scalar, check_choice, check_count, check_numbers
from srdef.victims import Victim


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    classes: jax.Array  # the candidates, most likely first
    x: jax.Array
    total: jax.Array  # the sum of the steps, without overshoot
    prediction: jax.Array
    done: jax.Array
    diagnostics: Diagnostics


@struct.dataclass
class DeepFool(Attack):
    """Project the image onto the nearest linearised class boundary until it has crossed one.

    With f_k = Z_k - Z_label and its gradient w_k, the distance to the boundary with class k is
    |f_k| / ||w_k||_q, q the dual norm. Each step goes to the nearest one, and a little further:

        r_i = (|f_k| / ||w_k||_2 + margin) * w_k / ||w_k||_2       (L2)
        r_i = (|f_k| / ||w_k||_1 + margin) * sign(w_k)             (L∞)
        x_{i+1} = clip_[0, 1](x_0 + (1 + overshoot) * Σ r_i)

    An image that is misclassified already stays as it is. Targeted (an extension of the published
    attack): each step goes to the boundary between the class now predicted and the target.

    Parameters
    ----------
    overshoot : float
        What the sum of the steps is enlarged by.
    margin : float
        Added to each step's length, in units of the [0, 1] range, so that rounding cannot leave the
        image on the boundary.
    steps : int
        The most steps for an image.
    candidates : int
        How many classes are tried: the most likely ones for the image itself. Fewer if the victim
        has fewer.
    norm : "l2" or "linf"
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    overshoot: Scalar = 0.02
    margin: Scalar = 1e-4
    steps: int = struct.field(pytree_node=False, default=50)
    candidates: int = struct.field(pytree_node=False, default=10)
    norm: Norm = struct.field(pytree_node=False, default="l2")
    targeted: bool = struct.field(pytree_node=False, default=False)

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        logits = victim(image, jax.random.fold_in(key, 0))
        _, classes = jax.lax.top_k(logits, min(self.candidates, logits.shape[0]))
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            classes=classes,
            x=image,
            total=jnp.zeros_like(image),
            prediction=jnp.argmax(logits),
            done=is_adversarial(self, logits, label),
            diagnostics=Diagnostics.create(),
        )

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        logits = victim(start, jax.random.fold_in(state.key, START))
        return state.replace(
            x=jnp.where(state.done, state.image, start),
            total=(start - state.image) / (1 + self.overshoot),
            prediction=jnp.argmax(logits),
            done=state.done | is_adversarial(self, logits, state.label),
        )

    def step(self, victim: Victim, state: State) -> State:
        key = jax.random.fold_in(state.key, state.iteration)
        # Untargeted, a running image is still classified as its label, its first candidate.
        ends = state.label[None] if self.targeted else state.classes[1:]

        def lead(x: jax.Array) -> jax.Array:
            """By how much each class that would end the attack leads the predicted one."""
            logits = victim(x, key)
            return logits[ends] - logits[state.prediction]

        leads, gradients = values_and_grads(lead, state.x)
        gradients, diagnostics = state.diagnostics.check(gradients, state.done, leads)
        flat = gradients.reshape(len(ends), -1)
        norms = jnp.linalg.norm(flat, ord=2 if self.norm == "l2" else 1, axis=1)
        # A class whose lead does not change is out of reach, and so is one that can never win.
        distances = jnp.where(
            (norms > 0) & jnp.isfinite(leads), jnp.abs(leads) / jnp.where(norms > 0, norms, 1), jnp.inf
        )
        nearest = jnp.argmin(distances)
        gradient, norm, distance = gradients[nearest], norms[nearest], distances[nearest]
        direction = gradient / norm if self.norm == "l2" else jnp.sign(gradient)
        change = jnp.where(jnp.isfinite(distance), (distance + self.margin) * direction, 0)

        total = state.total + change
        x = jnp.clip(state.image + (1 + self.overshoot) * total, 0, 1)
        logits = victim(x, jax.random.fold_in(state.key, state.iteration + 1))
        return state.replace(
            iteration=state.iteration + 1,
            x=x,
            total=total,
            # NaN would be the largest.
            prediction=jnp.where(jnp.isnan(logits).any(), state.prediction, jnp.argmax(logits)),
            done=is_adversarial(self, logits, state.label),
            diagnostics=diagnostics,
        )

    def finished(self, state: State) -> jax.Array:
        return state.done | (state.iteration >= self.steps)

    def result(self, state: State) -> jax.Array:
        return state.x


@REGISTRY.register("deepfool")
def deepfool(
    *,
    norm: Norm = "l2",
    overshoot: Scalar = 0.02,
    margin: Scalar = 1e-4,
    steps: int = 50,
    candidates: int = 10,
    targeted: bool = False,
) -> DeepFool:
    """DeepFool with the parameters of its authors: 10 classes, overshoot 0.02, 50 steps."""
    check_count("steps", steps)
    check_count("candidates", candidates)
    if candidates < 2:
        raise InputError("candidates must be at least 2: the class to leave and one to reach")
    check_choice("norm", norm, ("l2", "linf"))
    check_numbers(overshoot=overshoot, margin=margin)
    return DeepFool(overshoot, margin, steps, candidates, norm, targeted)
