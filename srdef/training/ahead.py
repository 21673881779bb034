"""How far a training's loop is ahead of the device."""

from collections import deque
from typing import Any

import jax

_STEPS = 2  # one runs, the next one waits


class StepsAhead:
    """The steps that the device was given and that may not be computed yet: only a few.

    JAX returns before a step is computed. A loop that never waits gives the device all steps at once: their
    batches fill the memory, progress says nothing, and Ctrl-C ends nothing before the last of them.
    """

    def __init__(self) -> None:
        self._given: deque[Any] = deque()

    def add(self, outputs: Any) -> None:
        """Note what a step returns, and wait until the step before the last one is computed."""
        self._given.append(outputs)
        if len(self._given) > _STEPS:
            jax.block_until_ready(self._given.popleft())
