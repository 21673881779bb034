"""Any attack several times, of which the best result of each image is kept.

As `attack.repeat(n)` of foolbox (Rauber et al. 2020, JOSS 5(53) 2607).
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from srdef.attacks import arguments, judging
from srdef.attacks.arithmetic import Arithmetic
from srdef.attacks.base import REGISTRY, RESTART, Attack, AttackResult
from srdef.attacks.batch import Storage, perturb
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.projections import AnyNorm
from srdef.attacks.stepping import smaller_batch
from srdef.attacks.targets import TargetName
from srdef.attacks.trace import Trace, measure, side_by_side
from srdef.batching import map_batches, settled_batch_size
from srdef.errors import InputError, SrdefWarning
from srdef.validation import Scalar, check_count
from srdef.victims import Victim


@struct.dataclass
class Repeated(Ensemble):
    """An attack `n` times, each with a random key of its own; the best result is kept for each image.

    The best is a success before none; then, of a minimal-norm attack, the smallest perturbation in its norm
    (in its `distance`, where it has one), and of another attack the highest loss (that of `Trace`). A random
    victim is judged once more in the end, by fresh draws. An attack with an `epsilon` is not run again for
    images that it has fooled, unless its `stop_early` is off.

    An attack that draws nothing finds the same each time: give `pgd` or `fgsm` a random start. `restarts=` of
    `pgd`, `apgd` and `fab` does the same within one program.

    Parameters
    ----------
    attack : Attack
    n : int
        The first run is that of the attack alone with the same key.
    """

    attack: Attack
    n: int = struct.field(pytree_node=False, default=10)

    @property
    def targeted(self) -> bool:
        """Whether the labels are the classes to reach."""
        return self.attack.targeted

    @property
    def norm(self) -> AnyNorm:
        """The norm of the attack."""
        return self.attack.norm

    @property
    def minimal_norm(self) -> bool:
        """Whether the attack looks for the smallest perturbation."""
        return self.attack.minimal_norm

    def _keys(self, key: jax.Array) -> list[jax.Array]:
        more = jax.random.fold_in(key, RESTART)
        return [key, *(jax.random.fold_in(more, run) for run in range(1, self.n))]

    def perturb(
        self,
        victim: Victim,
        images: np.ndarray | jax.Array,
        labels: np.ndarray | jax.Array | Literal["predicted"],
        *,
        key: jax.Array,
        ids: np.ndarray | None = None,
        batch_size: int | None = None,
        storage: Storage = "float32",
        draws: int = 1,
        mesh: Mesh | None = None,
        progress: Callable[[int], None] | None = None,
        start: np.ndarray | jax.Array | None = None,
        trace: bool = False,
        targets: TargetName | None = None,
        arithmetic: Arithmetic | None = None,
    ) -> AttackResult:
        """Attack every image; what `srdef.attacks.perturb` calls, with the same parameters.

        Only the first run begins at `start`. The trace is that of the run whose result is kept. `progress` is
        called after each run, with the number of images that are fooled.

        Returns
        -------
        AttackResult
            With the steps of all runs together.
        """
        images, ids, key, attack, classes = arguments.check_arguments(self.attack, victim, images, ids, key)
        count = len(images)
        batch_size = settled_batch_size(batch_size, count, images.shape[1:], mesh)
        shared: dict[str, Any] = {"batch_size": batch_size, "mesh": mesh}
        labels = arguments.check_labels(attack, victim, labels, images, key, ids, classes, shared, targets)
        every = self.minimal_norm or not getattr(attack, "stop_early", True)
        left = np.arange(count)
        best = images.copy()
        score = np.full((2, count), -np.inf)
        steps = np.zeros(count, np.int32)
        nonfinite, zero_gradient = np.zeros(count, bool), np.zeros(count, bool)
        ways: list[Trace] = [None] * count  # type: ignore[list-item]
        for run, own in enumerate(self._keys(key)):
            if not len(left):
                break
            part = jax.tree.map(lambda leaf, rows=left: leaf[rows], attack)
            options: dict[str, Any] = {
                "batch_size": smaller_batch(batch_size, len(left)),
                "mesh": mesh,
            }
            with warnings.catch_warnings():
                # Said once at the end, and not by every run.
                warnings.simplefilter("ignore", SrdefWarning)
                result = perturb(
                    part,
                    victim,
                    images[left],
                    labels[left],
                    key=own,
                    ids=ids[left],
                    storage=storage,
                    draws=draws,
                    start=start if run == 0 else None,
                    trace=trace,
                    arithmetic=arithmetic,
                    **options,
                )
            found = self._score(part, victim, result, labels[left], own, ids[left], options)
            old = score[:, left]
            better = (found[0] > old[0]) | ((found[0] == old[0]) & (found[1] > old[1])) | (run == 0)
            rows = left[better]
            best[rows], score[:, rows] = result.images[better], found[:, better]
            steps[left] += result.steps
            nonfinite[left] |= result.nonfinite
            zero_gradient[left] |= result.zero_gradient
            if trace:
                for row in np.flatnonzero(better):
                    ways[left[row]] = jax.tree.map(lambda x, row=row: x[:, row : row + 1], result.trace)
            if not every:
                left = left[~result.success]
            if progress is not None:
                progress(int((score[0] > 0.5).sum()))
        fresh = key if self.n == 1 else jax.random.fold_in(key, RESTART)
        result = judging.judge(attack, victim, images, best, labels, fresh, ids, draws, shared)
        result = replace(
            result,
            steps=steps,
            nonfinite=result.nonfinite | nonfinite,
            zero_gradient=zero_gradient & ~result.success,
            trace=side_by_side(ways) if trace else None,
        )
        judging.warn(attack, result, ids)
        return result

    def _score(
        self,
        attack: Attack,
        victim: Victim,
        result: AttackResult,
        labels: np.ndarray,
        key: jax.Array,
        ids: np.ndarray,
        options: dict[str, Any],
    ) -> np.ndarray:
        """How good each result is, `(2, N)`: the share of draws it fools; minus its distance, or its loss."""
        if self.minimal_norm:
            second = -getattr(result, getattr(self.attack, "distance", None) or self.norm)
        else:

            def losses(victim: Victim, key: jax.Array, images: Any, labels: Any, ids: Any) -> Any:
                return measure(attack, victim, key, images, labels, ids, jnp.zeros_like(ids)).loss

            rows = (result.images, labels, ids)
            second = np.nan_to_num(map_batches(losses, (victim, key), rows, **options), nan=-np.inf)
        return np.stack([result.success_rate, second])


@REGISTRY.register("repeat")
def repeat(attack: Attack | str, n: int = 10, *, epsilon: Scalar | None = None, **options: Any) -> Repeated:
    """Any attack `n` times with a random key of its own each, as `attack.repeat(n)`.

    Parameters
    ----------
    attack : Attack or str
        Or the name of one, which is then made with `epsilon` and the other options.
    n : int
    epsilon : float, optional
    """
    check_count("n", n)
    if epsilon is not None:
        options["epsilon"] = epsilon
    if isinstance(attack, str):
        attack = REGISTRY.create(attack, **options)
    elif options:
        raise InputError(f"repeat: {', '.join(options)} are options of an attack given by name")
    if isinstance(attack, Ensemble):
        return attack.repeat(n)  # which says why not
    if not isinstance(attack, Attack):
        raise InputError(f"repeat: attack must be one like attacks.pgd(), or a name, not {attack!r:.80}")
    return Repeated(attack, n)
