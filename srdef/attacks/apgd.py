"""Auto-PGD: projected gradient ascent that sets its own step size; with targets, APGD-T.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (arXiv:2003.01690), algorithm 1; in L1 Croce and Hein 2021 (arXiv:2103.01208).
Parameters are those of their code (fra31/auto-attack, `autopgd_base.py`).
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks import rounding
from srdef.attacks.base import REGISTRY, Iterative, is_adversarial, max_other_logit
from srdef.attacks.gradient_sign import cross_entropy
from srdef.attacks.projections import Norm, length, project, safe_divide, within_l1
from srdef.cpu.gradients import value_and_grad
from srdef.errors import InputError
from srdef.validation import Scalar, check_choice, check_count, check_epsilon, check_shares
from srdef.victims import Victim, expected

Loss = Literal["ce", "dlr", "dlr_targeted"]

# Keeps the quotient of the DLR loss finite where the logits are all equal.
_TINY = 1e-12


def difference_of_logits_ratio(logits: jax.Array, label: jax.Array) -> jax.Array:
    """DLR: -(z_y - max_{i≠y} z_i) / (z_π1 - z_π3), equation (6); at least 3 classes."""
    _check_classes(logits, 3, "the DLR loss")
    ordered, _ = jax.lax.top_k(logits, 3)
    return (max_other_logit(logits, label) - logits[label]) / (ordered[0] - ordered[2] + _TINY)


def targeted_difference_of_logits_ratio(logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
    """Targeted DLR: -(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2), equation (7); at least 4 classes."""
    _check_classes(logits, 4, "the targeted DLR loss")
    ordered, _ = jax.lax.top_k(logits, 4)
    spread = ordered[0] - (ordered[2] + ordered[3]) / 2
    return (logits[target] - logits[label]) / (spread + _TINY)


def _check_classes(logits: jax.Array, needed: int, what: str) -> None:
    if logits.shape[0] < needed:
        raise InputError(f"{what} needs at least {needed} classes; the victim has {logits.shape[0]}")


def likeliest_others(logits: jax.Array, label: jax.Array, count: int) -> jax.Array:
    """The `count` most likely classes but the label; fewer if there are not as many."""
    others = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
    return jax.lax.top_k(others, min(count, logits.shape[0] - 1))[1]


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    turn: jax.Array  # counts gradients over all runs
    targets: jax.Array  # (targets,), or one unused entry
    run: jax.Array  # which restart of which target
    phase: jax.Array  # which radius of the schedule
    count: jax.Array  # steps taken in this phase
    x: jax.Array  # where the next gradient is taken
    previous: jax.Array
    last_loss: jax.Array
    best: jax.Array  # of this phase
    best_gradient: jax.Array
    best_loss: jax.Array
    step_size: jax.Array
    # Since the last checkpoint:
    since: jax.Array
    increases: jax.Array
    interval: jax.Array
    checked_loss: jax.Array  # the best loss then
    halved: jax.Array
    # L1: the share of the values that a step changes, and how many were changed at the last checkpoint
    share: jax.Array
    changed: jax.Array
    # Over all runs:
    found: jax.Array
    found_loss: jax.Array
    adversarial: jax.Array


@struct.dataclass
class AutoPGD(Iterative):
    """Steps of a size that is halved where they stop helping, with a momentum of 1/4.

        z = P(x_k + η sign(∇L(x_k)))
        x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))

    with P the projection onto ball and box; in L2 the gradient is divided by its norm instead. η
    starts at 2 ε. At checkpoints, ever closer together, it is halved, and the search goes back to
    the best point so far, if fewer than a share ρ of the steps raised the loss, or if neither η nor
    the best loss has changed since the last checkpoint. In L1 a step moves only the values with the
    largest gradients, as many as two thirds of those that the best point so far has changed, and
    η, from ε down to ε / 10, starts afresh where that number falls.

    An image is done when one of its points is adversarial; that point is the result. If none is, or
    with `stop_early` false, the result is the point of the highest loss.

    Two things differ from the published code: the first checkpoint counts the first step, as the
    paper has it, not the sign of the first loss; and an image that is not fooled does not come back
    unchanged.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    rho : float
        The share of successful steps below which the step size is halved.
    steps : int
        Of each run.
    restarts : int
        Runs from random starts (for each target).
    norm : "linf", "l2" or "l1"
    loss : "ce", "dlr" or "dlr_targeted"
        Cross-entropy; the difference of logits ratio; or that ratio for one target after the other:
        the most likely classes but the label, most likely first. The label is the class to leave
        also then.
    targets : int
        How many classes "dlr_targeted" tries; fewer if the victim has fewer.
    shrinking : bool
        Whether a run spends 30 % of its steps in a ball of radius 3 ε and 30 % in one of 2 ε before
        it comes to ε, as AutoAttack does in L1.
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach; only with "ce".
    """

    epsilon: Scalar
    rho: Scalar = 0.75
    steps: int = struct.field(pytree_node=False, default=100)
    restarts: int = struct.field(pytree_node=False, default=1)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    loss: Loss = struct.field(pytree_node=False, default="ce")
    targets: int = struct.field(pytree_node=False, default=9)
    shrinking: bool = struct.field(pytree_node=False, default=False)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)

    @property
    def max_steps(self) -> int:
        targets = self.targets if self.loss == "dlr_targeted" else 1
        return targets * self.restarts * sum(steps + 1 for _, steps in self._phases)

    @property
    def stops_early(self) -> bool:
        # A victim with few classes has fewer targets.
        return self.stop_early or self.loss == "dlr_targeted"

    @property
    def _phases(self) -> tuple[tuple[float, int], ...]:
        """Radii in units of ε, and the steps with each."""
        if not self.shrinking:
            return ((1.0, self.steps),)
        early = min(math.ceil(0.3 * self.steps), self.steps // 3)
        return ((3.0, early), (2.0, early), (1.0, self.steps - 2 * early))

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        logits = victim(image, jax.random.fold_in(key, 0))
        count = self.targets if self.loss == "dlr_targeted" else 1
        start = self._random_start(image, jax.random.fold_in(key, 1))
        none, zero = jnp.float32(-jnp.inf), jnp.float32(0)
        return State(
            image,
            label,
            key,
            turn=jnp.int32(0),
            targets=likeliest_others(logits, label, count),
            run=jnp.int32(0),
            phase=jnp.int32(0),
            count=jnp.int32(0),
            x=start,
            previous=start,
            last_loss=none,
            best=start,
            best_gradient=jnp.zeros_like(image),
            best_loss=none,
            step_size=zero,
            since=jnp.int32(0),
            increases=jnp.int32(0),
            interval=jnp.int32(1),
            checked_loss=none,
            halved=jnp.bool_(True),
            share=zero,
            changed=zero,
            found=image,
            found_loss=none,
            adversarial=self.stop_early & is_adversarial(self, logits, label),
        )

    def step(self, victim: Victim, state: State) -> State:
        key = jax.random.fold_in(state.key, state.turn + 2)
        target = state.targets[jnp.minimum(state.run // self.restarts, len(state.targets) - 1)]

        def loss_at(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return expected(victim, lambda logits: (self._loss(logits, state.label, target), logits), x, key)

        (loss, logits), gradient = value_and_grad(loss_at, state.x)
        state = self._keep_best(state, loss, gradient)
        state = self._keep_found(state, loss, is_adversarial(self, logits, state.label))
        state, x, gradient = self._checkpoint(state, gradient)
        return self._next(state, x, gradient).replace(turn=state.turn + 1)

    def finished(self, state: State) -> jax.Array:
        runs = self.restarts * (state.targets.shape[-1] if self.loss == "dlr_targeted" else 1)
        return state.adversarial | (state.run >= runs)

    def result(self, state: State) -> jax.Array:
        return state.found

    def round(
        self, victim: Victim, image: jax.Array, attacked: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        within = {"linf": rounding.within_linf, "l2": rounding.within_l2, "l1": within_l1}
        return within[self.norm](image, attacked, self.epsilon)

    def _loss(self, logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
        if self.loss == "dlr":
            return difference_of_logits_ratio(logits, label)
        if self.loss == "dlr_targeted":
            return targeted_difference_of_logits_ratio(logits, label, target)
        value = cross_entropy(logits, label)
        return -value if self.targeted else value

    def _random_start(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """A point of the sphere, clipped to [0, 1]."""
        if self.norm == "linf":
            noise = jax.random.uniform(key, image.shape, minval=-1, maxval=1)
        else:
            noise = jax.random.normal(key, image.shape)
        if self.norm != "l1":
            noise = safe_divide(noise, length(noise, self.norm)) * self.epsilon
        return project(image, image + noise, self._radius(jnp.int32(0)), self.norm)

    def _radius(self, phase: jax.Array) -> jax.Array:
        return jnp.array([scale for scale, _ in self._phases])[phase] * self.epsilon

    def _keep_best(self, state: State, loss: jax.Array, gradient: jax.Array) -> State:
        """The bookkeeping of one more point of this phase."""
        first = state.count == 0
        better = first | (loss > state.best_loss)
        best_loss = jnp.where(better, loss, state.best_loss)
        best = jnp.where(better, state.x, state.best)
        size = state.image.size
        if self.norm == "l1":
            interval = jnp.array([max(int(0.04 * steps), 1) for _, steps in self._phases])[state.phase]
            step_size = self._radius(state.phase)
            changed, share = jnp.float32(size), jnp.float32(0.2)
            if self.shrinking:
                changed = (state.x != state.image).sum().astype(jnp.float32)
                share = changed / size / 1.5
        else:
            interval = jnp.int32(max(int(0.22 * self.steps), 1))
            step_size = 2 * self._radius(state.phase)
            changed = share = jnp.float32(0)
        return state.replace(
            last_loss=loss,
            best=best,
            best_gradient=jnp.where(better, gradient, state.best_gradient),
            best_loss=best_loss,
            step_size=jnp.where(first, step_size, state.step_size),
            since=jnp.where(first, 0, state.since + 1),
            increases=jnp.where(first, 0, state.increases + (loss > state.last_loss)),
            interval=jnp.where(first, interval, state.interval),
            checked_loss=jnp.where(first, loss, state.checked_loss),
            halved=first | state.halved,
            share=jnp.where(first, share, state.share),
            changed=jnp.where(first, changed, state.changed),
        )

    def _keep_found(self, state: State, loss: jax.Array, fooled: jax.Array) -> State:
        """What counts in the end: only points of the ball itself."""
        inside = state.phase == len(self._phases) - 1
        adversarial = inside & fooled & self.stop_early
        better = adversarial | (inside & (loss > state.found_loss))
        return state.replace(
            found=jnp.where(better, state.x, state.found),
            found_loss=jnp.where(better, loss, state.found_loss),
            adversarial=adversarial,
        )

    def _checkpoint(self, state: State, gradient: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        """Where to step from, and with which gradient; at a checkpoint perhaps from the best point."""
        due = (state.count > 0) & (state.since >= state.interval)
        if self.norm == "l1":
            changed = (state.best != state.image).sum().astype(jnp.float32)
            back = due & (changed < 0.95 * state.changed)
            full = self._radius(state.phase)
            step_size = jnp.where(back, full, jnp.maximum(state.step_size / 1.5, full / 10))
            state = state.replace(
                share=jnp.where(due, changed / state.image.size / 1.5, state.share),
                changed=jnp.where(due, changed, state.changed),
            )
            interval = state.interval
        else:
            # In counts, as the product with ρ may fall just below a whole number.
            rare = state.increases <= self.rho * state.since + 1e-4
            stuck = ~state.halved & (state.best_loss <= state.checked_loss)
            back = due & (rare | stuck)
            step_size = jnp.where(back, state.step_size / 2, state.step_size)
            state = state.replace(
                halved=jnp.where(due, back, state.halved),
                checked_loss=jnp.where(due, state.best_loss, state.checked_loss),
            )
            shorter = state.interval - max(int(0.03 * self.steps), 1)
            interval = jnp.maximum(shorter, max(int(0.06 * self.steps), 1))
        state = state.replace(
            step_size=jnp.where(due, step_size, state.step_size),
            interval=jnp.where(due, interval, state.interval),
            since=jnp.where(due, 0, state.since),
            increases=jnp.where(due, 0, state.increases),
        )
        x = jnp.where(back, state.best, state.x)
        return state, x, jnp.where(back, state.best_gradient, gradient)

    def _next(self, state: State, x: jax.Array, gradient: jax.Array) -> State:
        """The next point of this phase, or the first of the next phase or run."""
        steps = jnp.array([steps for _, steps in self._phases])[state.phase]
        moved = self._move(state, x, gradient)
        over = state.count >= steps
        last = over & (state.phase == len(self._phases) - 1)
        phase = jnp.where(last, 0, state.phase + over)
        start = self._random_start(state.image, jax.random.fold_in(state.key, state.turn + 2))
        if self.shrinking:
            closer = project(state.image, state.best, self._radius(phase), self.norm)
            start = jnp.where(last, start, closer)
        return state.replace(
            run=state.run + last,
            phase=phase,
            count=jnp.where(over, 0, state.count + 1),
            x=jnp.where(over, start, moved),
            previous=jnp.where(over, start, x),
        )

    def _move(self, state: State, x: jax.Array, gradient: jax.Array) -> jax.Array:
        radius = self._radius(state.phase)

        def onto_ball(x: jax.Array) -> jax.Array:
            return project(state.image, x, radius, self.norm)

        if self.norm == "l1":
            size = jnp.abs(gradient)
            place = jnp.clip((1 - state.share) * size.size, 0, size.size - 1).astype(int)
            direction = jnp.where(size >= jnp.sort(size.ravel())[place], jnp.sign(gradient), 0)
            return onto_ball(x + state.step_size * safe_divide(direction, jnp.abs(direction).sum()))
        sphere = safe_divide(gradient, length(gradient, "l2"))
        direction = jnp.sign(gradient) if self.norm == "linf" else sphere
        z = onto_ball(x + state.step_size * direction)
        weight = jnp.where(state.count == 0, 1.0, 0.75)
        return onto_ball(x + weight * (z - x) + (1 - weight) * (x - state.previous))


@REGISTRY.register("apgd")
def apgd(
    epsilon: Scalar = 8 / 255,
    *,
    steps: int = 100,
    restarts: int = 1,
    norm: Norm = "linf",
    loss: Literal["ce", "dlr"] = "ce",
    rho: Scalar = 0.75,
    shrinking: bool = False,
    stop_early: bool = True,
    targeted: bool = False,
) -> AutoPGD:
    """APGD with cross-entropy or the difference of logits ratio; 100 steps, ρ 0.75, as its authors'."""
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_choice("norm", norm, get_args(Norm))
    check_choice("loss", loss, ("ce", "dlr"))
    check_epsilon(epsilon, norm)
    check_shares(rho=rho)
    _check_schedule(shrinking, steps, norm)
    if targeted and loss != "ce":
        raise InputError('a targeted apgd takes the loss "ce"; apgd_t tries several targets by itself')
    return AutoPGD(
        epsilon,
        rho,
        steps=steps,
        restarts=restarts,
        norm=norm,
        loss=loss,
        shrinking=shrinking,
        stop_early=stop_early,
        targeted=targeted,
    )


@REGISTRY.register("apgd_t")
def apgd_t(
    epsilon: Scalar = 8 / 255,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    norm: Norm = "linf",
    rho: Scalar = 0.75,
    shrinking: bool = False,
    stop_early: bool = True,
) -> AutoPGD:
    """APGD-T: APGD with the targeted DLR loss, towards the 9 most likely other classes in turn."""
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_count("targets", targets)
    check_choice("norm", norm, get_args(Norm))
    check_epsilon(epsilon, norm)
    check_shares(rho=rho)
    _check_schedule(shrinking, steps, norm)
    return AutoPGD(
        epsilon,
        rho,
        steps=steps,
        restarts=restarts,
        norm=norm,
        loss="dlr_targeted",
        targets=targets,
        shrinking=shrinking,
        stop_early=stop_early,
    )


def _check_schedule(shrinking: bool, steps: int, norm: Norm) -> None:
    if shrinking and norm != "l1":
        raise InputError(f"shrinking is for the norm l1, as in AutoAttack, not {norm}")
    if shrinking and steps < 3:
        raise InputError(f"shrinking needs at least 3 steps, one for each radius, not {steps}")
