"""What minimal-norm attacks share: the nearest adversarial image so far, the constant, and annealed steps."""

import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import START, Attack, is_adversarial
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.losses import max_other_logit
from srdef.validation import Scalar
from srdef.victims import Victim

# Adam's first steps are no progress; fewer than this say nothing.
SHORTEST_LOOK = 20


class Nearest(struct.PyTreeNode):
    """The adversarial image that is nearest to the given one, of all that an attack has seen.

    Attributes
    ----------
    image : array (height, width, 3)
        The given image itself while nothing is found.
    distance : array ()
        Infinite while nothing is found.
    """

    image: jax.Array
    distance: jax.Array

    @classmethod
    def create(cls, image: jax.Array) -> "Nearest":
        """Nothing is found yet."""
        return cls(image, jnp.full((), jnp.inf, image.dtype))

    @property
    def found(self) -> jax.Array:
        """Whether there is an adversarial image."""
        return jnp.isfinite(self.distance)

    @property
    def at_start(self) -> jax.Array:
        """Whether the given image is misclassified as it is: nothing is nearer."""
        return self.distance == 0

    def update(self, x: jax.Array, distance: jax.Array, adversarial: jax.Array) -> "Nearest":
        """Keep `x` if it is adversarial and nearer."""
        better = adversarial & (distance < self.distance)
        return Nearest(jnp.where(better, x, self.image), jnp.where(better, distance, self.distance))


class SearchState(struct.PyTreeNode):
    """The loop's state of one image in a search for the nearest adversarial one."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    x: jax.Array
    nearest: Nearest
    diagnostics: Diagnostics

    @classmethod
    def create(cls, image: jax.Array, label: jax.Array, key: jax.Array, **more: Any) -> Self:
        """The state before the first iteration, at the image itself."""
        nearest, diagnostics = Nearest.create(image), Diagnostics.create()
        return cls(image, label, key, jnp.int32(0), image, nearest, diagnostics, **more)


class Search(Attack):
    """An attack whose result is the nearest adversarial image of all its iterations.

    It has nothing to do for an image that is misclassified as it is.
    """

    def start_at(self, victim: Victim, state: Any, start: jax.Array) -> Any:
        # The image is not among the iterations then.
        logits = victim(state.image, jax.random.fold_in(state.key, START))
        wrong = is_adversarial(self, logits, state.label)
        nearest = state.nearest.update(state.image, jnp.zeros_like(state.nearest.distance), wrong)
        return state.replace(x=start, nearest=nearest)

    def finished(self, state: Any) -> jax.Array:
        return state.nearest.at_start

    def result(self, state: Any) -> jax.Array:
        return state.nearest.image


class Constant(struct.PyTreeNode):
    """The constant c that weighs a hinge against the distance, and the search for it.

    Carlini and Wagner 2017 (arXiv:1608.04644), section VI: c is multiplied by 10 until an adversarial image
    is found with it, and bisected from then on.
    """

    value: jax.Array
    low: jax.Array
    high: jax.Array
    search: jax.Array  # the number of values of c that are done
    iteration: jax.Array  # with this c
    least_loss: jax.Array  # within this tenth of the iterations
    last_loss: jax.Array  # what that was in the tenth before
    found: jax.Array  # whether this c has given an adversarial image

    @classmethod
    def create(cls, first: Scalar, search: jax.Array, dtype: Any) -> "Constant":
        """The first value of c, before its first iteration."""
        infinite = jnp.full((), jnp.inf, dtype)
        return cls(
            value=jnp.asarray(first, dtype),
            low=jnp.zeros_like(infinite),
            high=infinite,
            search=search,
            iteration=jnp.int32(0),
            least_loss=infinite,
            last_loss=infinite,
            found=jnp.bool_(False),
        )

    def update(
        self, loss: jax.Array, reached: jax.Array, any_found: jax.Array, iterations: Any, abort_early: bool
    ) -> tuple["Constant", jax.Array]:
        """The search after one more iteration, and whether the next one starts with another value of c.

        Parameters
        ----------
        loss : array ()
            Of this iteration.
        reached : bool array ()
            Whether it has given an adversarial image.
        any_found : bool array ()
            Whether one has been found with any c.
        iterations : int or int array ()
            The most for each c.
        abort_early : bool
            Whether a c is left when the least loss in a tenth of the iterations (at least 20) is not lower by
            a 10000th than in the tenth before.
        """
        state = self.replace(iteration=self.iteration + 1, found=self.found | reached)
        over = state.iteration >= iterations
        if abort_early:
            # The least loss of each tenth, as the loss of one image goes up and down where it crosses the
            # boundary; the authors look at the sum over a batch, which hides that.
            tenth = jnp.maximum(iterations // 10, SHORTEST_LOOK)
            look = state.iteration % tenth == 0
            loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)  # as if it had none
            least = jnp.minimum(state.least_loss, loss)
            # While nothing is found, there is nothing to gain by leaving.
            over |= look & any_found & (least > 0.9999 * state.last_loss)
            # Not the least of the first tenth, where Adam starts with a rise, and FISTA at the image.
            counted = jnp.where(state.iteration == tenth, loss, least)
            state = state.replace(
                least_loss=jnp.where(look, jnp.inf, least),
                last_loss=jnp.where(look, counted, state.last_loss),
            )
        fresh = state._next()
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, state), over

    def _next(self) -> "Constant":
        """The search before the first iteration with the next value of c."""
        low = jnp.where(self.found, self.low, jnp.maximum(self.low, self.value))
        high = jnp.where(self.found, jnp.minimum(self.high, self.value), self.high)
        return self.replace(
            value=jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * self.value),
            low=low,
            high=high,
            search=self.search + 1,
            iteration=jnp.int32(0),
            least_loss=jnp.full_like(self.least_loss, jnp.inf),
            last_loss=jnp.full_like(self.last_loss, jnp.inf),
            found=jnp.bool_(False),
        )


def lead_to_undo(logits: jax.Array, label: jax.Array, targeted: bool) -> jax.Array:
    """By how much the logits lead on the side of the boundary that an attack wants to leave.

    That of the label over the best other class; for a targeted attack the other way round.
    """
    lead = logits[label] - max_other_logit(logits, label)
    return -lead if targeted else lead


def annealed(first: Scalar, last: Scalar, iteration: jax.Array, steps: Any) -> jax.Array:
    """A number that falls along half a cosine from `first`, and would be `last` after all steps."""
    share = (1 + jnp.cos(math.pi * iteration / steps)) / 2
    return share * first + (1 - share) * last


def furthest(image: jax.Array) -> jax.Array:
    """The largest perturbation that [0, 1] has room for, value by value."""
    return jnp.maximum(image, 1 - image)
