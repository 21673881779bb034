"""Auto-PGD: projected gradient ascent that sets its own step size; with targets, APGD-T.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (arXiv:2003.01690), algorithm 1; in L1 Croce and Hein 2021 (arXiv:2103.01208).
Parameters are those of their code (fra31/auto-attack, `autopgd_base.py`).
"""

import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, RESTART, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.losses import Loss, check_loss, likeliest_others, loss_to_climb, loss_towards
from srdef.attacks.projections import Norm, length, project, safe_divide
from srdef.attacks.step_sizes import Halving, Progress, Sparse, StepSizeRule
from srdef.cpu.branches import where_needed
from srdef.cpu.gradients import value_and_grad
from srdef.errors import InputError
from srdef.validation import Scalar, check_choice, check_count, check_epsilon, check_shares
from srdef.victims import Victim


class Run(struct.PyTreeNode):
    """One run of algorithm 1, in one ball; every run starts with a fresh one."""

    k: jax.Array  # the number of steps taken
    x: jax.Array  # x^(k), where the next gradient is taken
    previous: jax.Array  # x^(k-1)
    loss: jax.Array  # f(x^(k-1)); infinite before the first gradient
    best: jax.Array  # x_max
    best_loss: jax.Array  # f_max
    best_gradient: jax.Array
    rule: Any  # the state of the step-size rule


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array  # counts gradients over all runs
    targets: jax.Array  # (targets,), or one unused entry
    restarts: jax.Array  # how many there will be, for all targets together
    restart: jax.Array  # which of them this is
    phase: jax.Array  # which radius of the schedule
    run: Run
    # Of all runs, and of points of the ball itself:
    found: jax.Array
    found_loss: jax.Array
    found_fools: jax.Array  # whether `found` is adversarial
    adversarial: jax.Array
    diagnostics: Diagnostics
    start: jax.Array | None = None  # of the first run (of each target); None: a random point


@struct.dataclass
class AutoPGD(Attack):
    """Steps of a size that is halved where they stop helping, with a momentum of 1/4.

        z = P(x_k + η sign(∇L(x_k)))
        x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))

    with P the projection onto ball and box; in L2 the gradient is divided by its norm instead. How η
    changes at checkpoints, and how the search goes back to the best point then, says
    `step_sizes.Halving`; `step_sizes.Sparse` replaces both in L1, where a step moves only the values with
    the largest gradients.

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
    loss : "cross_entropy", "margin", "dlr", "logit" or callable
        See `losses.Loss`.
    targets : int
        How many classes are tried one after the other: the most likely ones but the label, most likely first;
        fewer if the victim has fewer. The label is the class to leave also then. The loss is that of the
        target (`losses.loss_towards`). 0: there are no targets, only the label.
    shrinking : bool
        Whether a run spends 30 % of its steps in a ball of radius 3 ε and 30 % in one of 2 ε before
        it comes to ε, as AutoAttack does in L1.
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach; not together with `targets`.
    """

    epsilon: Scalar
    rho: Scalar = 0.75
    steps: int = struct.field(pytree_node=False, default=100)
    restarts: int = struct.field(pytree_node=False, default=1)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    loss: Loss = struct.field(pytree_node=False, default="cross_entropy")
    targets: int = struct.field(pytree_node=False, default=0)
    shrinking: bool = struct.field(pytree_node=False, default=False)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)

    @property
    def max_steps(self) -> int:
        return max(self.targets, 1) * self.restarts * sum(steps + 1 for _, steps in self._phases)

    @property
    def stops_early(self) -> bool:
        # A victim with few classes has fewer targets.
        return self.stop_early or self.targets > 0

    @property
    def _phases(self) -> tuple[tuple[float, int], ...]:
        """Radii in units of ε, and the steps with each."""
        if not self.shrinking:
            return ((1.0, self.steps),)
        early = min(math.ceil(0.3 * self.steps), self.steps // 3)
        return ((3.0, early), (2.0, early), (1.0, self.steps - 2 * early))

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        logits = victim(image, jax.random.fold_in(key, 0))
        targets, possible = likeliest_others(logits, label, max(self.targets, 1))
        if not self.targets:
            possible = jnp.int32(1)
        start = self._random_start(image, jax.random.fold_in(key, 1))
        phase = jnp.int32(0)
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            targets=targets,
            restarts=self.restarts * possible,
            restart=jnp.int32(0),
            phase=phase,
            run=self._start_run(image, start, phase),
            found=image,
            found_loss=jnp.float32(-jnp.inf),
            found_fools=jnp.bool_(False),
            adversarial=self.stop_early & is_adversarial(self, logits, label),
            diagnostics=Diagnostics.create(),
        )

    def current(self, state: State) -> jax.Array:
        return state.run.x

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        return state.replace(run=self._start_run(state.image, start, state.phase), start=start)

    def step(self, victim: Victim, state: State) -> State:
        """Take the gradient at x^(k) and step to x^(k+1), as in lines 6 to 15 of algorithm 1."""
        run, radius = state.run, self._radius(state.phase)
        rule = self._rule(state.phase)
        loss, gradient, adversarial, diagnostics = self._evaluate(victim, state)
        state = self._keep_found(state, loss, adversarial).replace(diagnostics=diagnostics)

        better = loss > run.best_loss
        best = jnp.where(better, run.x, run.best)
        best_loss = jnp.where(better, loss, run.best_loss)
        best_gradient = jnp.where(better, gradient, run.best_gradient)

        progress = Progress(run.k, loss > run.loss, best_loss, best - state.image)
        rule_state, back = rule.check(run.rule, progress, radius)
        x = jnp.where(back, best, run.x)
        gradient = jnp.where(back, best_gradient, gradient)

        def onto_ball(x: jax.Array) -> jax.Array:
            return project(state.image, x, radius, self.norm)

        x_next = rule.move(rule_state, run.k, x, run.previous, gradient, onto_ball)
        run = Run(run.k + 1, x_next, x, loss, best, best_loss, best_gradient, rule_state)
        return self._go_on(state.replace(run=run)).replace(iteration=state.iteration + 1)

    def finished(self, state: State) -> jax.Array:
        return state.adversarial | (state.restart >= state.restarts)

    def result(self, state: State) -> jax.Array:
        return state.found

    def _evaluate(self, victim: Victim, state: State) -> tuple[jax.Array, jax.Array, jax.Array, Diagnostics]:
        """The loss and its gradient at x^(k), whether that point is adversarial, and the diagnostics."""
        key = jax.random.fold_in(state.key, state.iteration + 2)
        target = state.targets[jnp.minimum(state.restart // self.restarts, len(state.targets) - 1)]

        def loss_at(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            if self.targets:
                return loss_towards(victim, x, state.label, target, key, self.loss)
            return loss_to_climb(victim, x, state.label, key, self.loss, self.targeted)

        (loss, logits), gradient = value_and_grad(loss_at, state.run.x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, loss, logits)
        return jnp.where(jnp.isnan(loss), -jnp.inf, loss), gradient, adversarial, diagnostics

    def _rule(self, phase: jax.Array) -> StepSizeRule:
        if self.norm != "l1":
            return Halving(self.steps, self.rho, self.norm)
        interval = jnp.array([max(int(0.04 * steps), 1) for _, steps in self._phases])[phase]
        return Sparse(interval, from_start=self.shrinking)

    def _start_run(self, image: jax.Array, x: jax.Array, phase: jax.Array) -> Run:
        return Run(
            k=jnp.int32(0),
            x=x,
            previous=x,
            loss=jnp.float32(jnp.inf),
            best=x,
            best_loss=jnp.float32(-jnp.inf),
            best_gradient=jnp.zeros_like(x),
            rule=self._rule(phase).start(x - image, self._radius(phase)),
        )

    def _random_start(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """A point of the sphere, clipped to [0, 1]."""
        if self.norm == "linf":
            noise = jax.random.uniform(key, image.shape, minval=-1, maxval=1)
        else:
            noise = jax.random.normal(key, image.shape)
        if self.norm != "l1":
            noise = safe_divide(noise, length(noise, self.norm)) * self.epsilon
        return project(image, image + noise, self._radius(jnp.int32(0)), self.norm)

    def _next_start(self, state: State, phase: jax.Array, last: jax.Array, key: jax.Array) -> jax.Array:
        """Where the next run starts; within a run of several radii from its best point so far."""
        start = self._random_start(state.image, key)
        if state.start is not None:
            first = (state.restart + 1) % self.restarts == 0
            start = jnp.where(first, state.start, start)
        if not self.shrinking:
            return start
        closer = project(state.image, state.run.best, self._radius(phase), self.norm)
        return jnp.where(last, start, closer)

    def _radius(self, phase: jax.Array) -> jax.Array:
        return jnp.array([scale for scale, _ in self._phases])[phase] * self.epsilon

    def _keep_found(self, state: State, loss: jax.Array, fooled: jax.Array) -> State:
        """Keep what counts in the end: only points of the ball itself."""
        inside = state.phase == len(self._phases) - 1
        fooled &= inside
        # An adversarial point is better than any that is not, whatever their losses: with DLR a point may
        # have a high one and the label's class.
        better = inside & (loss > state.found_loss)
        better = jnp.where(fooled == state.found_fools, better, fooled)
        return state.replace(
            found=jnp.where(better, state.run.x, state.found),
            found_loss=jnp.where(better, loss, state.found_loss),
            found_fools=state.found_fools | fooled,
            adversarial=fooled & self.stop_early,
        )

    def _go_on(self, state: State) -> State:
        """Start the next phase, or the next run, when this one is over."""
        steps = jnp.array([steps for _, steps in self._phases])[state.phase]
        over = state.run.k > steps
        last = over & (state.phase == len(self._phases) - 1)
        phase = jnp.where(last, 0, state.phase + over)
        restart_key = jax.random.fold_in(jax.random.fold_in(state.key, RESTART), state.iteration)
        operands = self, state, phase, last, restart_key
        start = where_needed(over, AutoPGD._next_start, state.image, *operands)
        fresh = self._start_run(state.image, start, phase)
        run = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, state.run)
        return state.replace(restart=state.restart + last, phase=phase, run=run)


@REGISTRY.register("apgd")
def apgd(
    epsilon: Scalar = 8 / 255,
    *,
    steps: int = 100,
    restarts: int = 1,
    norm: Norm = "linf",
    loss: Loss = "cross_entropy",
    rho: Scalar = 0.75,
    shrinking: bool = False,
    stop_early: bool = True,
    targeted: bool = False,
) -> AutoPGD:
    """APGD with any loss; 100 steps, ρ 0.75, as its authors'.

    Their losses are cross-entropy and the difference of logits ratio ("dlr"). See `losses.Loss`.
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_choice("norm", norm, get_args(Norm))
    check_loss(loss)
    check_epsilon(epsilon, norm)
    check_shares(rho=rho)
    _check_schedule(shrinking, steps, norm)
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
    loss: Loss = "dlr",
    rho: Scalar = 0.75,
    shrinking: bool = False,
    stop_early: bool = True,
) -> AutoPGD:
    """APGD-T: APGD with the targeted DLR loss, towards the 9 most likely other classes in turn.

    That loss needs four classes: a victim with fewer is attacked with the cross-entropy of each target.
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_count("targets", targets)
    check_choice("norm", norm, get_args(Norm))
    check_loss(loss)
    check_epsilon(epsilon, norm)
    check_shares(rho=rho)
    _check_schedule(shrinking, steps, norm)
    return AutoPGD(
        epsilon,
        rho,
        steps=steps,
        restarts=restarts,
        norm=norm,
        loss=loss,
        targets=targets,
        shrinking=shrinking,
        stop_early=stop_early,
    )


def _check_schedule(shrinking: bool, steps: int, norm: Norm) -> None:
    if shrinking and norm != "l1":
        raise InputError(f"shrinking is for the norm l1, as in AutoAttack, not {norm}")
    if shrinking and steps < 3:
        raise InputError(f"shrinking needs at least 3 steps, one for each radius, not {steps}")
