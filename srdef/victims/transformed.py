"""Victims that an attacker sees through transformations of the image, so that what it finds transfers.

Each of them has a number of copies of the image, and the attacker's gradient is the mean of those at the
copies. They combine: `ScaledCopies(DiverseInputs(victim))` resizes and pads every scaled copy. As victims
they serve any attack; `GradientSign` takes them as `views`, and then computes one copy a step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from srdef.victims.base import Victim, expected, mean_over


class Transformed(Victim):
    """A victim that is seen through transformed copies of the image: the base class of these victims.

    The logits, and so predictions and what is judged, are those of the image itself; their gradient is that
    of the mean over the copies. `expected`, through which attacks take their losses, is the mean over the
    copies.

    Attributes
    ----------
    victim : Victim, optional
        None: only a view, to be given to an attack.
    copies : int
    chunk : int, optional
        How many copies are computed at a time; None: all.
    """

    victim: Any
    copies: Any
    chunk: int | None = 1

    @property
    def num_classes(self) -> int:
        return self.victim.num_classes

    def transform(self, image: jax.Array, key: jax.Array, copy: Any) -> jax.Array:
        """Return one copy of the image, number `copy`."""
        raise NotImplementedError

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        logits = self.victim(image, key)
        seen = self.expected(lambda logits: logits, image, key)
        # Masked classes, whose logits are infinite, have no difference.
        difference = jnp.where(jnp.isfinite(seen), seen - jax.lax.stop_gradient(seen), 0)
        return jax.lax.stop_gradient(logits) + difference

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        """The mean over the copies of `function` of the logits."""

        def one(copy: Any) -> Any:
            return self.expected_of(copy, function, image, key)

        return one(0) if self.copies == 1 else mean_over(one, jnp.arange(self.copies), self.chunk)

    def expected_of(
        self, copy: Any, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array
    ) -> Any:
        """`function` of the logits of one copy, averaged over the draws of the victim within."""
        key = key if self.copies == 1 else jax.random.fold_in(key, copy)
        transform_key, victim_key = jax.random.split(key)
        return expected(self.victim, function, self.transform(image, transform_key, copy), victim_key)


@struct.dataclass
class OneCopy(Victim):
    """A victim seen through one copy of a view.

    Parameters
    ----------
    view : Transformed
        With its victim.
    copy : integer array ()
    """

    view: Any
    copy: Any

    @property
    def num_classes(self) -> int:
        return self.view.num_classes

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return self.expected(lambda logits: logits, image, key)

    def expected(self, function: Callable[[jax.Array], Any], image: jax.Array, key: jax.Array) -> Any:
        return self.view.expected_of(self.copy, function, image, key)


def through(victim: Victim, views: tuple[Transformed, ...], copy: Any) -> Victim:
    """The victim seen through one copy of all `views` together, of which there are the product of theirs.

    Parameters
    ----------
    victim : Victim
    views : tuple of Transformed
        Without victims. The first one transforms the image, the next one what that makes of it.
    copy : integer array ()
    """
    for view in reversed(views):
        victim = OneCopy(view.replace(victim=victim), copy % view.copies)  # type: ignore[attr-defined]
        copy = copy // view.copies
    return victim
