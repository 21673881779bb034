"""FAB: the fast adaptive boundary attack, a search for the smallest perturbation; FAB-T by targets.

Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack"
(arXiv:1907.02044); FAB-T is section 4 of arXiv:2003.01690. Parameters are those of their code
(fra31/auto-attack, `fab_base.py`).
"""

from dataclasses import replace
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.losses import likeliest_others
from srdef.attacks.projections import DUAL, Norm, length, project_hyperplane, safe_divide
from srdef.cpu.branches import where_needed
from srdef.cpu.gradients import values_and_grads
from srdef.validation import Scalar, check_choice, check_count, check_numbers, check_positive, check_shares
from srdef.victims import Victim

# From which distance restarts begin, where none is given.
_START_RADIUS: dict[Norm, float] = {"linf": 0.3, "l2": 1.0, "l1": 5.0}


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array  # counted over all runs
    targets: jax.Array
    x: jax.Array
    best: jax.Array
    runs: jax.Array  # how many there will be
    diagnostics: Diagnostics
    distance: jax.Array  # of `best`; infinite while there is none
    start: jax.Array  # of the first run (of each target)


@struct.dataclass
class FAB(Attack):
    """Project onto linearised boundaries, with a pull towards the image, and step back inside.

    With f the lead of another class over the label and w its gradient at x_i, both x_i and the image
    x_0 are projected onto the hyperplane f + w · (x - x_i) = 0 within [0, 1], by δ_i and δ_0. Then

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
    start_radius : float, optional
        Runs after the first start from a random point of the sphere with half this radius, or half
        the best distance if that is smaller. In units of the [0, 1] range; default: 0.3 in L∞, 1 in
        L2 and 5 in L1.
    epsilon : float
        A perturbation of at most this length ends the search for its image: the ε of an evaluation
        that only asks whether an image can be fooled within ε. It does not bound the perturbation.
        0: never.
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

    counts: ClassVar = ("steps",)
    eta: Scalar = 1.05
    beta: Scalar = 0.9
    alpha_max: Scalar = 0.1
    start_radius: Scalar | None = None
    epsilon: Scalar = 0.0
    steps: int = struct.field(pytree_node=False, default=100)
    restarts: int = struct.field(pytree_node=False, default=1)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    targets: int = struct.field(pytree_node=False, default=9)

    # `epsilon` ends the search; it is no ball to stay in.
    minimal_norm = True

    @property
    def max_steps(self) -> int:
        return max(self.targets, 1) * self.restarts * self.steps

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        logits = victim(image, jax.random.fold_in(key, 0))
        distance = jnp.where(is_adversarial(self, logits, label), 0, jnp.inf).astype(image.dtype)
        targets, possible = likeliest_others(logits, label, self.targets or logits.shape[0] - 1)
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            targets=targets,
            x=image,
            best=image,
            runs=self.restarts * (possible if self.targets else jnp.int32(1)),
            diagnostics=Diagnostics.create(),
            distance=distance,
            start=image,
        )

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        return state.replace(start=start, x=start)

    def step(self, victim: Victim, state: State) -> State:
        start_key, first_key, second_key = jax.random.split(
            jax.random.fold_in(state.key, state.iteration + 1), 3
        )
        run, step = state.iteration // self.steps, state.iteration % self.steps
        # Traced steps would be a static value of an operand.
        bare = self if isinstance(self.steps, int) else self.replace(steps=0)
        x = where_needed(step == 0, FAB._start, state.x, bare, state, run, start_key)
        number = jnp.minimum(run // self.restarts, len(state.targets) - 1)
        ends = state.targets[number][None] if self.targets else state.targets

        def lead(x: jax.Array) -> jax.Array:
            logits = victim(x, first_key)
            return logits[ends] - logits[state.label]

        leads, gradients = values_and_grads(lead, x)
        gradients, diagnostics = state.diagnostics.check(gradients, (leads > 0).any(), leads)
        norms = jax.vmap(lambda gradient: length(gradient, DUAL[self.norm]))(gradients)
        # A class whose lead does not change, or is infinite, is out of reach; without any that is not, x only
        # goes back towards the image.
        within_reach = (norms > 0) & jnp.isfinite(norms) & jnp.isfinite(leads)
        nearest = jnp.argmin(jnp.where(within_reach, safe_divide(jnp.abs(leads), norms), jnp.inf))
        gradient = jnp.where(within_reach[nearest], gradients[nearest], 0)
        offset = jnp.sum(gradient * x) - jnp.where(within_reach[nearest], leads[nearest], 0)

        here = project_hyperplane(x, gradient, offset, self.norm)
        there = project_hyperplane(state.image, gradient, offset, self.norm)
        pair = jnp.maximum(jnp.stack([length(here, self.norm), length(there, self.norm)]), 1e-8)
        alpha = jnp.minimum(pair[0] / pair.sum(), self.alpha_max)
        x = (1 - alpha) * (x + self.eta * here) + alpha * (state.image + self.eta * there)
        x = jnp.clip(x, 0, 1).astype(state.image.dtype)

        adversarial = is_adversarial(self, victim(x, second_key), state.label)
        distance = length(x - state.image, self.norm)
        better = adversarial & (distance < state.distance)
        return state.replace(
            iteration=state.iteration + 1,
            diagnostics=diagnostics,
            x=jnp.where(adversarial, state.image + self.beta * (x - state.image), x).astype(x.dtype),
            best=jnp.where(better, x, state.best),
            distance=jnp.where(better, distance, state.distance),
        )

    def finished(self, state: State) -> jax.Array:
        # Rounding must not separate a perturbation of length ε from ε.
        near = state.distance <= self.epsilon * (1 + 1e-6)
        return near | (state.iteration >= state.runs * self.steps)

    def result(self, state: State) -> jax.Array:
        return state.best

    def _start(self, state: State, run: jax.Array, key: jax.Array) -> jax.Array:
        """The image, or what was given, for the first run (of each target), a random point for the others."""
        shape, dtype = state.image.shape, state.image.dtype
        if self.norm == "linf":
            noise = jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)
        else:
            noise = jax.random.normal(key, shape, dtype)
        furthest = _START_RADIUS[self.norm] if self.start_radius is None else self.start_radius
        radius = jnp.minimum(state.distance, furthest) / 2
        noise = radius * safe_divide(noise, length(noise, self.norm))
        start = jnp.clip(state.image + noise, 0, 1).astype(dtype)
        return jnp.where(run % self.restarts == 0, state.start, start)


@REGISTRY.register("fab")
def fab(
    *,
    steps: int = 100,
    restarts: int = 1,
    norm: Norm = "linf",
    eta: Scalar = 1.05,
    beta: Scalar = 0.9,
    alpha_max: Scalar = 0.1,
    start_radius: Scalar | None = None,
    epsilon: Scalar = 0.0,
) -> FAB:
    """FAB with its authors' η 1.05, β 0.9, α_max 0.1 and 100 steps; every step tries all classes."""
    numbers: dict[str, Scalar] = {"eta": eta, "beta": beta, "alpha_max": alpha_max, "epsilon": epsilon}
    if start_radius is not None:
        numbers["start_radius"] = start_radius
    check_numbers(**numbers)
    check_positive(eta=eta)
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
    start_radius: Scalar | None = None,
    epsilon: Scalar = 0.0,
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
        epsilon=epsilon,
    )
    return replace(attack, targets=targets)
