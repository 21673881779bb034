"""Steps along the sign of the gradient: one attack, whose numbers make it FGSM, PGD and what came of them.

`srdef.attacks.fgsm` has those of the paper and PGD, `srdef.attacks.transfer_family` those made to transfer.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import RESTART, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.losses import Loss, loss_to_climb, max_other_logit
from srdef.attacks.projections import Norm, project, safe_divide
from srdef.cpu.branches import where_needed
from srdef.cpu.gradients import value_and_grad
from srdef.validation import Scalar
from srdef.victims import DiverseInputs, Transformed, Victim, through

# The neighbours of an image are drawn with `fold_in(key, NEIGHBOUR)`; small numbers are those of copies.
NEIGHBOUR = 0xFFFFFFE0


class Sums(struct.PyTreeNode):
    """Gradients of one iteration that takes several, in units of exp(scale), with which none underflows."""

    scale: jax.Array
    gradient: jax.Array  # the mean over the copies of the image
    nearby: jax.Array  # the mean over its neighbours
    variance: jax.Array  # v of the iteration before


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array  # counts gradients over all restarts
    x: jax.Array
    g: jax.Array
    best: jax.Array
    best_margin: jax.Array
    diagnostics: Diagnostics
    sums: Sums | None  # None: each iteration takes one gradient


@struct.dataclass
class GradientSign(Attack):
    """Steps along the sign of the (accumulated) loss gradient, projected onto a ball.

    Starting from g_0 = 0 and x_0 = the image, for m = 0 ... steps - 1:

        g_{m+1} = momentum * g_m + ∇L(x_m) / ||∇L(x_m)||_1
        x_{m+1} = clip_ε(x_m + step_size * sign(g_{m+1}))

    with the loss L, cross-entropy unless said otherwise, and clip_ε the projection onto the ball of radius ε
    around the image and onto [0, 1]. (The gradient of cross-entropy is that of its logarithm: it has the same
    direction and does not underflow where the network is very sure.) With one step of size ε this is FGSM;
    with momentum 0 it is I-FGSM, as the sign does not see the scale of the gradient. In L2, sign(g) becomes
    g / ||g||_2. Targeted attacks descend instead of ascend.

    What makes it transfer to other victims (see the functions below) takes the gradient elsewhere:

    - `nesterov`: at x_m + step_size * momentum * g_m, with g in units of its mean absolute value.
    - `views`: as the mean over copies of the image.
    - `neighbours`: with v_m added, the mean gradient at neighbours of x_{m-1} minus that at x_{m-1}.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    step_size : float
        α, in the same unit.
    momentum : float
        The decay factor μ.
    diversity : float
        Probability p that a step sees a resized image (used with `diverse_inputs`).
    steps : int
        Number of iterations (of each restart). Each takes one gradient for each copy of the image and of its
        neighbours, and each of these gradients is a step of `perturb`.
    norm : "linf" or "l2"
    random_start : bool
        Whether x_0 is drawn uniformly from the ball.
    restarts : int
        Number of runs. The result is the final image of the run with the largest margin of a wrong
        class (of the target). Judging the runs takes one more gradient for each.
    stop_early : bool
        Whether an image that is adversarial after one run needs no other. Switch it off for random
        victims, where one lucky draw would end the attack.
    diverse_inputs : bool
        Whether the gradients are taken through `victims.DiverseInputs`.
    same_size : bool
        Of these: whether the victim sees images of the size of those given.
    targeted : bool
        Whether labels are the classes to reach.
    loss : "cross_entropy", "margin", "dlr", "logit" or callable
        L: see `losses.Loss`.
    nesterov : bool
        Whether the gradient is taken where the momentum leads.
    neighbours : int
        N, how many there are; 0: no variance is added.
    neighbourhood : float
        β: they are drawn uniformly from the ball of radius β ε.
    views : tuple of victims.Transformed
        Without victims: what the gradients are taken through. The first one transforms the image, the next
        one what that makes of it.
    """

    counts: ClassVar = ("steps",)
    epsilon: Scalar
    step_size: Scalar
    momentum: Scalar = 0.0
    diversity: Scalar = 0.0
    steps: int = struct.field(pytree_node=False, default=10)
    norm: Norm = struct.field(pytree_node=False, default="linf")
    random_start: bool = struct.field(pytree_node=False, default=False)
    restarts: int = struct.field(pytree_node=False, default=1)
    stop_early: bool = struct.field(pytree_node=False, default=True)
    diverse_inputs: bool = struct.field(pytree_node=False, default=False)
    targeted: bool = struct.field(pytree_node=False, default=False)
    loss: Loss = struct.field(pytree_node=False, default="cross_entropy")
    nesterov: bool = struct.field(pytree_node=False, default=False)
    neighbours: int = struct.field(pytree_node=False, default=0)
    neighbourhood: Scalar = 1.5
    views: tuple[Transformed, ...] = ()
    same_size: bool = struct.field(pytree_node=False, default=False)

    @property
    def max_steps(self) -> int:
        return self.restarts * self._run

    @property
    def travel(self) -> Any:
        """How far the steps of a run lead at most, in the attack's norm."""
        return self.steps * self.step_size

    @property
    def enlarges(self) -> bool:
        """Whether the victim sees images that are larger than those given, those of `DiverseInputs`."""
        own = self.diverse_inputs and not self.same_size
        return own or any(isinstance(view, DiverseInputs) and not view.same_size for view in self.views)

    @property
    def _copies(self) -> int:
        return math.prod(view.copies for view in self.views)

    @property
    def _gradients(self) -> int:
        """How many an iteration takes."""
        return self._copies * (1 + self.neighbours)

    @property
    def _run(self) -> int:
        """How many gradients a run takes; one of several takes one more, which judges where it has led."""
        return self.steps * self._gradients + (self.restarts > 1)

    @property
    def stops_early(self) -> bool:
        return self.restarts > 1 and self.stop_early

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        start = self._start(image, jax.random.fold_in(key, 0))
        none = jnp.float32(-jnp.inf)
        g = jnp.zeros_like(image)
        diagnostics = Diagnostics.create()
        return State(image, label, key, jnp.int32(0), start, g, image, none, diagnostics, self._no_sums(g))

    def start_at(self, victim: Victim, state: State, start: jax.Array) -> State:
        return state.replace(x=start)

    def step(self, victim: Victim, state: State) -> State:
        place, copy = state.iteration % self._run, state.iteration % self._run % self._copies
        # A key for each point at which gradients are taken, the same for all copies of it. Key 0 belongs to
        # the first start.
        points = self.steps * (1 + self.neighbours) + (self.restarts > 1)
        point = state.iteration // self._run * points + place // self._copies
        key = jax.random.fold_in(state.key, point + 1)
        seen = victim
        if self.diverse_inputs:
            seen = DiverseInputs(victim, self.diversity, same_size=self.same_size)
        seen = through(seen, self.views, copy)

        def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return loss_to_climb(seen, x, state.label, key, self.loss, self.targeted)

        number = place % self._gradients
        x = self._where(state, number, jax.random.fold_in(key, NEIGHBOUR))
        (value, logits), gradient = value_and_grad(loss, x)
        adversarial = is_adversarial(self, logits, state.label)
        gradient, diagnostics = state.diagnostics.check(gradient, adversarial, value, logits)
        state = state.replace(iteration=state.iteration + 1, diagnostics=diagnostics)
        moved = state
        if state.sums is None:
            moved = self._move(state, gradient)
        else:
            sums = self._add(state.sums, number, value, gradient)
            state = state.replace(sums=sums)
            variance = sums.nearby - sums.gradient if self.neighbours else sums.variance
            moved = self._move(state, sums.gradient + sums.variance)
            moved = moved.replace(sums=sums.replace(variance=variance))
            moved = _choose(number == self._gradients - 1, moved, state)
        if self.restarts == 1:
            return moved

        judging = place == self._run - 1
        if self.views or self.nesterov or self.diverse_inputs:
            logits = victim(state.x, key)
        margin = max_other_logit(logits, state.label) - logits[state.label]
        margin = -margin if self.targeted else margin
        better = judging & (margin > state.best_margin)
        restart = jax.random.fold_in(jax.random.fold_in(state.key, RESTART), state.iteration)
        none = jnp.zeros_like(state.g)
        # Traced steps would be a static value of an operand.
        bare = self if isinstance(self.steps, int) else self.replace(steps=0)
        start = where_needed(judging, type(self)._start, state.image, bare, state.image, restart)
        fresh = moved.replace(x=start, g=none, sums=self._no_sums(none))
        return _choose(judging, fresh, moved).replace(
            best=jnp.where(better, state.x, state.best),
            best_margin=jnp.where(better, margin, state.best_margin),
        )

    def _no_sums(self, zeros: jax.Array) -> Sums | None:
        """What there is before the first gradient of a run."""
        return Sums(jnp.float32(-jnp.inf), zeros, zeros, zeros) if self._gradients > 1 else None

    def _where(self, state: State, number: jax.Array, key: jax.Array) -> jax.Array:
        """Where the gradient of this number in its iteration is taken."""
        x = state.x
        if self.nesterov:
            # The scale of the authors' code, where g is a sum of gradients over their mean absolute value.
            x = x + self.step_size * self.momentum * x.size * state.g
        if self.neighbours:
            neighbour = state.x + self.neighbourhood * self.epsilon * self._noise(state.x, key)
            x = jnp.where(number < self._copies, x, neighbour)
        return x.astype(state.x.dtype)

    def _add(self, sums: Sums, number: jax.Array, value: jax.Array, gradient: jax.Array) -> Sums:
        """The sums with the next gradient, which was that of a logarithm if the loss is cross-entropy."""
        weight = jnp.float32(0)
        if self.loss == "cross_entropy":
            weight = -value if self.targeted else value
            # A copy without a loss counts for nothing.
            weight = jnp.where(jnp.isfinite(weight), weight, -jnp.inf)
        first = number == 0
        old = sums.scale if self.neighbours else jnp.where(first, -jnp.inf, sums.scale)
        scale = jnp.maximum(old, weight)
        unit = jnp.where(jnp.isfinite(scale), scale, 0)
        older = jnp.exp(old - unit)
        gradient = gradient * (jnp.exp(weight - unit) / self._copies)
        here = number < self._copies
        return Sums(
            scale,
            jnp.where(first, 0, older * sums.gradient) + jnp.where(here, gradient, 0),
            jnp.where(first, 0, older * sums.nearby) + jnp.where(here, 0, gradient / max(self.neighbours, 1)),
            older * sums.variance,
        )

    def _move(self, state: State, gradient: jax.Array) -> State:
        """The state after a step along the gradient and the momentum."""
        g = self.momentum * state.g + safe_divide(gradient, jnp.abs(gradient).sum())
        direction = jnp.sign(g) if self.norm == "linf" else safe_divide(g, jnp.linalg.norm(g.ravel()))
        x = project(state.image, state.x + self.step_size * direction, self.epsilon, self.norm)
        return state.replace(x=x, g=g)

    def finished(self, state: State) -> jax.Array:
        return (state.iteration >= self.max_steps) | (self.stop_early & (state.best_margin > 0))

    def result(self, state: State) -> jax.Array:
        return state.x if self.restarts == 1 else state.best

    def _start(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if not self.random_start:
            return image
        return project(image, image + self.epsilon * self._noise(image, key), self.epsilon, self.norm)

    def _noise(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """A point of the ball of radius 1, uniformly."""
        if self.norm == "linf":
            return jax.random.uniform(key, image.shape, minval=-1, maxval=1)
        return jax.random.ball(key, image.size).reshape(image.shape)


def _choose(condition: jax.Array, one: State, other: State) -> State:
    """`one` where the condition holds, `other` otherwise."""
    return one.replace(
        x=jnp.where(condition, one.x, other.x),
        g=jnp.where(condition, one.g, other.g),
        sums=jax.tree.map(lambda new, old: jnp.where(condition, new, old), one.sums, other.sums),
    )
