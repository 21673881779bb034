"""What an attack does on its way: loss, margin and success after every step."""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks.base import Attack, reaches_aim, within_range
from srdef.attacks.counts import AttackRows
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.losses import Loss, classes_needed, loss_to_climb
from srdef.attacks.nearest import lead_to_undo
from srdef.programs import jit
from srdef.victims import Victim

# The draws of a random victim that are looked at are none that the attack sees, or that judge its result.
_LOOK = 0xFFFFFFFC


@struct.dataclass
class Trace:
    """What `perturb` returns with `trace=True`, for every step and image.

    Row 0 is the point at which the attack starts, row i the point at which it is after i steps; where it
    has no point, the best result so far. From the last step of an image on it is the result.

    Attributes
    ----------
    loss : float32 array (steps + 1, N)
        What the attack climbs: its `loss` if it has such an option and the victim has enough classes for it,
        cross-entropy otherwise; for a targeted attack its negative.
    margin : float32 array (steps + 1, N)
        By how much the largest other logit leads the label's; for a targeted attack the label's lead.
    success : bool array (steps + 1, N)
        Whether the victim's prediction is wrong; for a targeted attack, whether it is the label.
    """

    loss: Any
    margin: Any
    success: Any


def has_trace(attack: Any) -> bool:
    """Whether `perturb(..., trace=True)` traces an attack: not one that runs several."""
    return not isinstance(attack, Ensemble) or "trace" in inspect.signature(attack.perturb).parameters


def measure(
    attack: Attack,
    victim: Victim,
    key: jax.Array,
    images: Any,
    labels: Any,
    ids: Any,
    step: Any,
) -> Trace:
    """Loss, margin and success at images `(N, height, width, 3)`, each an array `(N,)`.

    `step`, one for each image, counts the draws of a random victim.
    """
    loss: Any = getattr(attack, "loss", "cross_entropy")
    return _measure(victim, key, images, labels, ids, step, loss=loss, targeted=attack.targeted)


@partial(jit, static_argnames=("loss", "targeted"))
def _measure(
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    step: jax.Array,
    *,
    loss: Loss,
    targeted: bool,
) -> Trace:
    # One program for all attacks of a loss.
    def one(x: jax.Array, label: jax.Array, i: jax.Array, step: jax.Array) -> Trace:
        own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, i), _LOOK), step)
        classes = jax.eval_shape(victim, x, own).shape[0]
        chosen = loss if classes >= classes_needed(loss, targeted) else "cross_entropy"
        value, logits = loss_to_climb(victim, x, label, own, chosen, targeted)
        if chosen == "cross_entropy":  # not its logarithm
            value = -jnp.exp(-value) if targeted else jnp.exp(value)
        margin = -lead_to_undo(logits, label, targeted)
        return Trace(value, margin, reaches_aim(targeted, logits, label))

    return jax.vmap(one)(images, labels, ids, step)


@jit
def _current(rows: AttackRows, counted: tuple[Any, jax.Array], images: jax.Array) -> jax.Array:
    """Where the attack is with each image; where it is finished, its result."""

    def one(rows: AttackRows, counted: tuple[Any, jax.Array], image: jax.Array) -> jax.Array:
        attack = rows.attack
        state, steps = counted
        finished = attack.finished(state) | (steps >= attack.max_steps)
        result, _ = within_range(attack.result(state), image)
        return jnp.where(finished, result, attack.current(state))

    return jax.vmap(one)(rows, counted, images)


class Recorder:
    """Collects the trace of one batch after the other.

    Parameters
    ----------
    victim, key
        As `perturb` has them.
    """

    def __init__(self, victim: Victim, key: jax.Array) -> None:
        self._victim, self._key = victim, key
        self._batches: list[list[Trace]] = []

    def start(self, images: Any, labels: Any, ids: Any) -> None:
        """The next batch has these images, labels and ids."""
        self._images, self._labels, self._ids = map(np.asarray, (images, labels, ids))
        self._steps = np.full(len(self._ids), -1)
        self._batches.append([])

    def __call__(self, attack: AttackRows, counted: tuple[Any, jax.Array], rows: np.ndarray) -> None:
        """Look at the images of some rows of the batch; rows past its end fill up and do not count.

        Parameters
        ----------
        counted : pytree
            The attack's state and the number of steps taken, as in `batch`.
        """
        step = counted[1]
        steps = np.asarray(step)
        kept = np.minimum(rows, len(self._ids) - 1)
        found = measure(
            attack.without_counts,
            self._victim,
            self._key,
            _current(attack, counted, self._images[kept]),
            self._labels[kept],
            self._ids[kept],
            step,
        )
        # Images that are finished take no more steps.
        moved = (rows < len(self._ids)) & (steps > self._steps[kept])
        self._steps[rows[moved]] = steps[moved]
        batch = self._batches[-1]

        def put(new: Any, old: Any = None) -> np.ndarray:
            new = np.asarray(new)
            values = np.zeros(len(self._ids), new.dtype) if old is None else old.copy()
            values[rows[moved]] = new[moved]
            return values

        batch.append(jax.tree.map(put, found, batch[-1]) if batch else jax.tree.map(put, found))

    def trace(self, count: int) -> Trace:
        """The trace of the first `count` images of all batches."""
        stacked = [jax.tree.map(lambda *rows: np.stack(rows), *batch) for batch in self._batches]
        return jax.tree.map(lambda x: x[:, :count], side_by_side(stacked))


def side_by_side(traces: list[Trace]) -> Trace:
    """The traces of different images as one; the shorter ones keep their last values."""
    steps = max(len(trace.loss) for trace in traces)

    def longer(values: np.ndarray) -> np.ndarray:
        return np.pad(values, ((0, steps - len(values)), (0, 0)), mode="edge")

    return jax.tree.map(lambda *parts: np.concatenate(list(map(longer, parts)), axis=1), *traces)
