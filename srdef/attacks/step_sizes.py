"""How Auto-PGD moves: the step-size rule of its algorithm 1, and the rule of its version in L1.

A rule is asked three times: `start` gives its state at the start of a run, `check` adapts that state after
each gradient and says whether to go back to the best point, `move` takes the step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks.projections import Norm, length, order_statistic, safe_divide
from srdef.validation import Scalar

Projection = Callable[[jax.Array], jax.Array]


class Progress(struct.PyTreeNode):
    """What a rule may know of the run when it is asked to adapt the step."""

    k: jax.Array  # the number of steps taken
    increased: jax.Array  # whether the last step has raised the loss
    best_loss: jax.Array
    perturbation: jax.Array  # that of the best point


class StepSizeRule(Protocol):
    """How far a run steps, and from where."""

    def start(self, perturbation: jax.Array, radius: Scalar) -> Any:
        """Return the state at the first point of a run in a ball of this radius."""
        ...

    def check(self, state: Any, progress: Progress, radius: Scalar) -> tuple[Any, jax.Array]:
        """Return the adapted state, and whether the next step starts from the best point."""
        ...

    def move(
        self,
        state: Any,
        k: jax.Array,
        x: jax.Array,
        previous: jax.Array,
        gradient: jax.Array,
        project: Projection,
    ) -> jax.Array:
        """Return the next point, given this one, the one before and the gradient."""
        ...


class HalvingState(struct.PyTreeNode):
    """What `Halving` keeps."""

    step_size: jax.Array
    increases: jax.Array  # steps since the last checkpoint that have raised the loss
    halved: jax.Array  # whether the last checkpoint has halved the step size
    checked_loss: jax.Array  # the best loss at the last checkpoint


@dataclass(frozen=True)
class Halving:
    """Algorithm 1 and section 3.2 of Croce and Hein 2020 (arXiv:2003.01690), in L∞ and L2.

    The step size starts at 2 ε. At the checkpoints w_j it is halved, and the search goes back to the best
    point, if one of these holds:

    1. Fewer than a share ρ of the steps since w_{j-1} have raised the loss.
    2. Neither the step size nor the best loss has changed since w_{j-1}.

    Parameters
    ----------
    steps : int
        Of the run.
    rho : float
    norm : "linf" or "l2"
    """

    steps: int
    rho: Scalar
    norm: Norm

    def start(self, perturbation: jax.Array, radius: Scalar) -> HalvingState:
        return HalvingState(
            step_size=jnp.asarray(2 * radius, perturbation.dtype),
            increases=jnp.int32(0),
            # So that condition 2 fails at the first checkpoint.
            halved=jnp.bool_(True),
            checked_loss=jnp.float32(-jnp.inf),
        )

    def check(
        self, state: HalvingState, progress: Progress, radius: Scalar
    ) -> tuple[HalvingState, jax.Array]:
        increases = state.increases + progress.increased
        window = jnp.asarray(_windows(self.steps))[progress.k]
        at_checkpoint = window > 0
        # In counts, as the product with ρ may fall just below a whole number.
        condition_1 = increases <= self.rho * window + 1e-4
        condition_2 = ~state.halved & (progress.best_loss <= state.checked_loss)
        halve = at_checkpoint & (condition_1 | condition_2)
        state = HalvingState(
            step_size=jnp.where(halve, state.step_size / 2, state.step_size),
            increases=jnp.where(at_checkpoint, 0, increases),
            halved=jnp.where(at_checkpoint, halve, state.halved),
            checked_loss=jnp.where(at_checkpoint, progress.best_loss, state.checked_loss),
        )
        return state, halve

    def move(
        self,
        state: HalvingState,
        k: jax.Array,
        x: jax.Array,
        previous: jax.Array,
        gradient: jax.Array,
        project: Projection,
    ) -> jax.Array:
        if self.norm == "linf":
            direction = jnp.sign(gradient)
        else:
            direction = safe_divide(gradient, length(gradient, "l2"))
        z = project(x + state.step_size * direction)
        weight = jnp.where(k == 0, 1.0, 0.75)  # α; the first step has no step before it
        return project(x + weight * (z - x) + (1 - weight) * (x - previous))


def _windows(steps: int) -> np.ndarray:
    """For each k up to `steps`: w_j - w_{j-1} if k is the checkpoint w_j, or else 0.

    The first window is 22 % of the steps, each next one shorter by 3 % of them, none shorter than 6 %.
    """
    windows = np.zeros(steps + 1, np.int32)
    window, shorter, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    k = window
    while k <= steps:
        windows[k] = window
        window = max(window - shorter, shortest)
        k += window
    return windows


class SparseState(struct.PyTreeNode):
    """What `Sparse` keeps."""

    step_size: jax.Array
    share: jax.Array  # of the values that a step moves
    perturbed: jax.Array  # the number of values that the best point has moved, at the last checkpoint


@dataclass(frozen=True)
class Sparse:
    """Section 3.2 of Croce and Hein 2021 (arXiv:2103.01208), in L1.

    A step moves only the values with the largest gradients. How many: two thirds of the number k_j of values
    that the best point has moved at the last checkpoint. The step size starts at ε, the radius. At a
    checkpoint (every 4 % of the steps) it is divided by 1.5, down to ε / 10; but if k_j has fallen by more
    than 5 %, it starts afresh at ε and the search goes back to the best point.

    Parameters
    ----------
    interval : int array ()
        The number of steps between checkpoints.
    from_start : bool
        Whether the number of values that a run's start has moved counts for its first share, which is 20 %
        otherwise.
    """

    interval: jax.Array
    from_start: bool

    def start(self, perturbation: jax.Array, radius: Scalar) -> SparseState:
        size = perturbation.size
        perturbed, share = jnp.float32(size), jnp.float32(0.2)
        if self.from_start:
            perturbed = (perturbation != 0).sum().astype(jnp.float32)
            share = perturbed / size / 1.5
        return SparseState(jnp.asarray(radius, perturbation.dtype), share, perturbed)

    def check(self, state: SparseState, progress: Progress, radius: Scalar) -> tuple[SparseState, jax.Array]:
        at_checkpoint = (progress.k > 0) & (progress.k % self.interval == 0)
        perturbed = (progress.perturbation != 0).sum().astype(jnp.float32)
        sparser = at_checkpoint & (perturbed < 0.95 * state.perturbed)
        step_size = jnp.where(sparser, radius, jnp.maximum(state.step_size / 1.5, radius / 10))
        state = SparseState(
            step_size=jnp.where(at_checkpoint, step_size, state.step_size),
            share=jnp.where(at_checkpoint, perturbed / progress.perturbation.size / 1.5, state.share),
            perturbed=jnp.where(at_checkpoint, perturbed, state.perturbed),
        )
        return state, sparser

    def move(
        self,
        state: SparseState,
        k: jax.Array,
        x: jax.Array,
        previous: jax.Array,
        gradient: jax.Array,
        project: Projection,
    ) -> jax.Array:
        size = jnp.abs(gradient)
        place = jnp.clip((1 - state.share) * size.size, 0, size.size - 1).astype(int)
        direction = jnp.where(size >= order_statistic(size, place), jnp.sign(gradient), 0)
        return project(x + state.step_size * safe_divide(direction, jnp.abs(direction).sum()))
