"""FAB: the fast adaptive boundary attack, a search for the smallest perturbation; FAB-T by targets.

Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack"
(arXiv:1907.02044); FAB-T is section 4 of arXiv:2003.01690. Parameters are those of their code
(fra31/auto-attack, `fab_base.py`).
"""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.apgd import likeliest_others
from srdef.attacks.base import REGISTRY, Iterative, is_adversarial
from srdef.attacks.projections import Norm, length, project_hyperplane, safe_divide
from srdef.attacks.rounding import MinimalNorm
from srdef.cpu.gradients import values_and_grads
from srdef.validation import Scalar, check_choice, check_count, check_numbers, check_shares
from srdef.victims import Victim


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    turn: jax.Array  # counts steps over all runs
    targets: jax.Array
    x: jax.Array
    best: jax.Array
    distance: jax.Array  # of `best`; infinite while there is none


@struct.dataclass
class FAB(MinimalNorm, Iterative):
    """Project onto linearised boundaries, with a pull towards the image, and step back inside.

    With f the lead of another class over the label and w its gradient at x_i, both x_i and the image
    x_0 are projected onto the hyperplane f + w · (x - x_i) = 0 within [0, 1]: changes δ_i and δ_0. Then

        α = min(|δ_i| / (|δ_i| + |δ_0|), alpha_max)
        x_{i+1} = clip_[0, 1]((1 - α) (x_i + η δ_i) + α (x_0 + η δ_0))

    and from an adversarial point the search goes on at x_0 + β (x_{i+1} - x_0). The result is the
    adversarial point nearest to the image; the image itself if there is none, or if it is
    misclassified as it is.

    Parameters
    ----------
    eta : float
        η, by how much a projection oversteps.
    beta : float
    alpha_max : float
    start_radius : float
        Runs after the first start from a random point of the sphere with half this radius, or half
        the best distance if that is smaller. In units of the [0, 1] range.
    enough : float
        A perturbation of at most this length ends the search for its image: the ε of an evaluation
        that only asks whether an image can be fooled within ε. 0: never.
    steps : int
        Of each run.
    restarts : int
        Runs (for each target).
    norm : "linf", "l2" or "l1"
    targets : int
        FAB-T: the lead is that of one of so many classes in turn, the most likely ones but the
        label. 0 is FAB: in every step the class whose boundary is nearest, out of all. That takes
        one gradient a class.
    """

    eta: Scalar = 1.05
    beta: Scalar = 0.9
    alpha_max: Scalar = 0.1
    start_radius: Scalar = 0.3
    enough: Scalar = 0.0
    steps: int = struct.field(pytree_node=False, default=100)
    restarts: int = struct.field(pytree_node=False, default=1)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    targets: int = struct.field(pytree_node=False, default=9)

    @property
    def targeted(self) -> bool:
        return False

    @property
    def max_steps(self) -> int:
        return max(self.targets, 1) * self.restarts * self.steps

    @property
    def stops_early(self) -> bool:
        return True

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        logits = victim(image, jax.random.fold_in(key, 0))
        distance = jnp.where(is_adversarial(self, logits, label), 0, jnp.inf)
        targets = likeliest_others(logits, label, self.targets or logits.shape[0] - 1)
        return State(image, label, key, jnp.int32(0), targets, x=image, best=image, distance=distance)

    def step(self, victim: Victim, state: State) -> State:
        start_key, first_key, second_key = jax.random.split(jax.random.fold_in(state.key, state.turn + 1), 3)
        run, step = state.turn // self.steps, state.turn % self.steps
        x = jnp.where(step == 0, self._start(state, run, start_key), state.x)
        number = jnp.minimum(run // self.restarts, len(state.targets) - 1)
        ends = state.targets[number][None] if self.targets else state.targets

        def lead(x: jax.Array) -> jax.Array:
            logits = victim(x, first_key)
            return logits[ends] - logits[state.label]

        leads, gradients = values_and_grads(lead, x)
        dual: dict[str, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
        norms = jax.vmap(lambda gradient: length(gradient, dual[self.norm]))(gradients)
        # A class whose lead does not change is out of reach.
        nearest = jnp.argmin(jnp.where(norms > 0, safe_divide(jnp.abs(leads), norms), jnp.inf))
        gradient = gradients[nearest]
        offset = jnp.sum(gradient * x) - leads[nearest]

        here = project_hyperplane(x, gradient, offset, self.norm)
        there = project_hyperplane(state.image, gradient, offset, self.norm)
        pair = jnp.maximum(jnp.stack([length(here, self.norm), length(there, self.norm)]), 1e-8)
        alpha = jnp.minimum(pair[0] / pair.sum(), self.alpha_max)
        x = (1 - alpha) * (x + self.eta * here) + alpha * (state.image + self.eta * there)
        x = jnp.clip(x, 0, 1)

        adversarial = is_adversarial(self, victim(x, second_key), state.label)
        distance = length(x - state.image, self.norm)
        better = adversarial & (distance < state.distance)
        return state.replace(
            turn=state.turn + 1,
            x=jnp.where(adversarial, state.image + self.beta * (x - state.image), x),
            best=jnp.where(better, x, state.best),
            distance=jnp.where(better, distance, state.distance),
        )

    def finished(self, state: State) -> jax.Array:
        runs = self.restarts * (state.targets.shape[-1] if self.targets else 1)
        # Rounding must not separate a perturbation of length ε from ε.
        near = state.distance <= self.enough * (1 + 1e-6)
        return near | (state.turn >= runs * self.steps)

    def result(self, state: State) -> jax.Array:
        return state.best

    def _start(self, state: State, run: jax.Array, key: jax.Array) -> jax.Array:
        """The image for the first run (of each target), a random point near it for the others."""
        if self.norm == "linf":
            noise = jax.random.uniform(key, state.image.shape, minval=-1, maxval=1)
        else:
            noise = jax.random.normal(key, state.image.shape)
        radius = jnp.minimum(state.distance, self.start_radius) / 2
        noise = radius * safe_divide(noise, length(noise, self.norm))
        return jnp.where(run % self.restarts == 0, state.image, jnp.clip(state.image + noise, 0, 1))


@REGISTRY.register("fab")
def fab(
    *,
    steps: int = 100,
    restarts: int = 1,
    norm: Norm = "linf",
    eta: Scalar = 1.05,
    beta: Scalar = 0.9,
    alpha_max: Scalar = 0.1,
    start_radius: Scalar = 0.3,
    enough: Scalar = 0.0,
) -> FAB:
    """FAB with its authors' η 1.05, β 0.9, α_max 0.1 and 100 steps; every step tries all classes."""
    numbers: dict[str, Scalar] = {
        "eta": eta,
        "beta": beta,
        "alpha_max": alpha_max,
        "start_radius": start_radius,
        "enough": enough,
    }
    check_numbers(**numbers)
    check_shares(beta=beta, alpha_max=alpha_max)
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_choice("norm", norm, get_args(Norm))
    return FAB(**numbers, steps=steps, restarts=restarts, norm=norm, targets=0)


@REGISTRY.register("fab_t")
def fab_t(
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    norm: Norm = "linf",
    eta: Scalar = 1.05,
    beta: Scalar = 0.9,
    alpha_max: Scalar = 0.1,
    start_radius: Scalar = 0.3,
    enough: Scalar = 0.0,
) -> FAB:
    """FAB-T: FAB towards the 9 most likely other classes in turn, so one gradient a step."""
    check_count("targets", targets)
    attack = fab(
        steps=steps,
        restarts=restarts,
        norm=norm,
        eta=eta,
        beta=beta,
        alpha_max=alpha_max,
        start_radius=start_radius,
        enough=enough,
    )
    return replace(attack, targets=targets)
