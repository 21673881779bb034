"""HopSkipJump: an attack that sees nothing but the predicted class.

Chen, Jordan and Wainwright 2020, "HopSkipJumpAttack: a query-efficient decision-based attack"
(arXiv:1904.02144); parameters of their code (Jianbo-Lab/HSJA, `hsja.py`).
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.projections import Norm, length, project, safe_divide
from srdef.validation import Scalar, check_choice, check_count, check_images, check_numbers
from srdef.victims import Victim

# How many random images are tried as the start.
_STARTS = 100
# Halvings that bring float32 numbers in [0, 1] together.
_MOST_HALVINGS = 24
# What the noise changes a value by at least: float32 loses smaller changes of values near 1.
_LEAST_NOISE = 1e-6


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    x: jax.Array  # adversarial, at the boundary
    reach: jax.Array  # distance to the image before x was brought to the boundary
    queries: jax.Array  # predictions asked for so far
    done: jax.Array


@struct.dataclass
class HopSkipJump(Attack):
    """Estimate the direction of the boundary from predictions, step along it, come back to it.

    The start is `start`, or a random image of another class (targeted: of the target), brought to the
    boundary by halving the way to the image. In step t, B_t = min(B_0 sqrt(t), B_max) images around x_t, at
    the distance δ_t, are classified; the mean of their directions, weighted by 1 where adversarial and -1
    where not, less the mean weight (equation 16), estimates the gradient. δ_1 is 0.1, later ones γ distance /
    d, but not so small that float32 rounds them away. The step along the gradient (its sign in L∞) starts at
    distance / sqrt(t) and is halved until it is adversarial; then the way to the image is halved again, in L∞
    by shrinking the ball.

    An image for which no adversarial start is found stays as it is, and so does one whose given start is not
    adversarial, or that is misclassified already. Random images are rarely of a given class: a targeted
    attack on a real network needs a `start`, an image that it classifies as the target.

    Parameters
    ----------
    gamma : float
        γ: the boundary is found to within γ / (d sqrt(d)) of the way in L2 and γ / d² in L∞, d the
        number of values in the image.
    init_num_evals : int
        B_0.
    max_num_evals : int
        B_max.
    steps : int
        Each takes B_t queries and some 25 to 40 more: 40 steps are about 18000.
    norm : "l2" or "linf"
    targeted : bool
        Whether labels are the classes to reach.
    start : array (height, width, 3), optional
        In [0, 1]; for `perturb` one for all images, or one per image `(N, height, width, 3)`.
    """

    counts: ClassVar = ("steps",)
    uses_gradients: ClassVar[bool] = False
    gamma: Scalar = 1.0
    init_num_evals: int = struct.field(pytree_node=False, default=100)
    max_num_evals: int = struct.field(pytree_node=False, default=10_000)
    steps: int = struct.field(pytree_node=False, default=40)
    norm: Norm = struct.field(pytree_node=False, default="l2")
    targeted: bool = struct.field(pytree_node=False, default=False)
    start: Any = None

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        clean_key, noise_key, judge_key, near_key = jax.random.split(jax.random.fold_in(key, 0), 4)

        def noise(tries: jax.Array) -> jax.Array:
            if self.start is not None:
                return jnp.asarray(self.start, image.dtype)
            return jax.random.uniform(jax.random.fold_in(noise_key, tries), image.shape, image.dtype)

        def fooled(tries: jax.Array) -> jax.Array:
            return is_adversarial(self, victim(noise(tries), jax.random.fold_in(judge_key, tries)), label)

        def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            tries, _ = carry
            return tries + 1, fooled(tries + 1)

        most = _STARTS if self.start is None else 1
        tries, found = jax.lax.while_loop(
            lambda carry: ~carry[1] & (carry[0] < most - 1), again, (jnp.int32(0), fooled(jnp.int32(0)))
        )
        wrong = is_adversarial(self, victim(image, clean_key), label)
        start = jnp.where(wrong | ~found, image, noise(tries))
        x, queries = self._to_boundary(victim, image, start, label, near_key)
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            x=x,
            reach=length(start - image, self.norm),
            queries=tries + 2 + queries,
            done=wrong | ~found,
        )

    def step(self, victim: Victim, state: State) -> State:
        iteration = state.iteration + 1
        key = jax.random.fold_in(state.key, iteration)
        gradient_key, step_key, boundary_key = jax.random.split(key, 3)
        distance = length(state.x - state.image, self.norm)
        values = state.image.size
        radius = jnp.maximum(self.gamma * state.reach / values, _LEAST_NOISE * math.sqrt(values))
        radius = jnp.where(iteration == 1, 0.1, radius)
        count = jnp.minimum((self.init_num_evals * jnp.sqrt(iteration)).astype(jnp.int32), self.max_num_evals)
        direction = self._direction(victim, state, radius, count, gradient_key)
        if self.norm == "linf":
            direction = jnp.sign(direction)
        else:
            direction = safe_divide(direction, length(direction, "l2"))

        first = distance / jnp.sqrt(iteration)

        def stepped(size: jax.Array) -> jax.Array:
            return jnp.clip(state.x + size * direction, 0, 1).astype(state.x.dtype)

        def works(size: jax.Array, tries: jax.Array) -> jax.Array:
            logits = victim(stepped(size), jax.random.fold_in(step_key, tries))
            return is_adversarial(self, logits, state.label)

        def halve(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            size, tries, _ = carry
            return size / 2, tries + 1, works(size / 2, tries + 1)

        size, tries, found = jax.lax.while_loop(
            lambda carry: ~carry[2] & (carry[1] < _MOST_HALVINGS),
            halve,
            (first, jnp.int32(0), works(first, jnp.int32(0))),
        )
        far = jnp.where(found, stepped(size), state.x)
        x, queries = self._to_boundary(victim, state.image, far, state.label, boundary_key)
        # Along the new line the boundary may lie further away.
        nearer = length(x - state.image, self.norm) < distance
        return state.replace(
            iteration=iteration,
            x=jnp.where(nearer, x, state.x),
            reach=length(far - state.image, self.norm),
            queries=state.queries + count + tries + 1 + queries,
        )

    def finished(self, state: State) -> jax.Array:
        return state.done | (state.iteration >= self.steps)

    def result(self, state: State) -> jax.Array:
        return state.x

    def _direction(
        self, victim: Victim, state: State, radius: jax.Array, count: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The estimated gradient of "how adversarial", of any length."""
        shape, dtype = state.image.shape, state.image.dtype

        def ask(i: jax.Array, sums: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            weighted, plain, total = sums
            noise_key, query_key = jax.random.split(jax.random.fold_in(key, i))
            if self.norm == "l2":
                noise = jax.random.normal(noise_key, shape, dtype)
            else:
                noise = jax.random.uniform(noise_key, shape, dtype, minval=-1, maxval=1)
            noise = safe_divide(noise, length(noise, "l2"))
            moved = jnp.clip(state.x + radius * noise, 0, 1).astype(dtype)
            # What clipping has left of it.
            noise = safe_divide(moved - state.x, radius).astype(dtype)
            adversarial = is_adversarial(self, victim(moved, query_key), state.label)
            weight = jnp.where(adversarial, 1, -1).astype(dtype)
            return weighted + weight * noise, plain + noise, total + weight

        zero = jnp.zeros(shape, dtype)
        weighted, plain, total = jax.lax.fori_loop(0, count, ask, (zero, zero, jnp.zeros((), dtype)))
        mean = total / count
        # Where all agree, the mean direction is all there is.
        return jnp.where(jnp.abs(mean) == 1, mean * plain, weighted - mean * plain)

    def _to_boundary(
        self, victim: Victim, image: jax.Array, far: jax.Array, label: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The adversarial point next to the boundary between `far` and the image, and the queries.

        In L2 the points of the line between them; in L∞ `far` cut off at a distance.
        """
        size = image.size
        precision = size**1.5 if self.norm == "l2" else size**2
        halvings = min(math.ceil(math.log2(precision)), _MOST_HALVINGS)
        reach = length(far - image, "linf")

        def between(share: jax.Array) -> jax.Array:
            if self.norm == "linf":
                return project(image, far, share * reach, "linf").astype(image.dtype)
            return (image + share * (far - image)).astype(image.dtype)

        def halve(i: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = (low + high) / 2
            works = is_adversarial(self, victim(between(middle), jax.random.fold_in(key, i)), label)
            # Past the tolerance nothing moves any more.
            open_ = high - low > self.gamma / precision
            return (
                jnp.where(open_ & ~works, middle, low),
                jnp.where(open_ & works, middle, high),
            )

        ends = jnp.zeros((), image.dtype), jnp.ones((), image.dtype)
        _, high = jax.lax.fori_loop(0, halvings, halve, ends)
        # `far` itself to the bit where nothing nearer is adversarial.
        return jnp.where(high == 1, far, between(high)), jnp.int32(halvings)


@REGISTRY.register("hop_skip_jump")
def hop_skip_jump(
    *,
    steps: int = 40,
    norm: Norm = "l2",
    init_num_evals: int = 100,
    max_num_evals: int = 10_000,
    gamma: Scalar = 1.0,
    targeted: bool = False,
    start: np.ndarray | jax.Array | None = None,
) -> HopSkipJump:
    """HopSkipJump with its authors' 40 steps, 100 queries for the first gradient, γ 1."""
    check_count("steps", steps)
    check_count("init_num_evals", init_num_evals)
    check_count("max_num_evals", max_num_evals)
    check_choice("norm", norm, ("l2", "linf"))
    check_numbers(gamma=gamma)
    if start is not None:
        start = np.array(start)  # a copy, as the caller's may change
        start = check_images(start[None])[0] if start.ndim == 3 else check_images(start)
    return HopSkipJump(gamma, init_num_evals, max_num_evals, steps, norm, targeted, start)
