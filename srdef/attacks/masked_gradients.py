"""Signs that attacks with gradients are not to be trusted on a victim, as AutoAttack looks for them.

After `checks.py` of fra31/auto-attack. Its check for defenses that optimise while they classify has no
counterpart here: it watches PyTorch's autograd at work, and a traced program shows no such thing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from srdef.attacks import programs
from srdef.attacks.base import Attack
from srdef.attacks.hop_skip_jump import HopSkipJump
from srdef.attacks.judging import PROBABILITIES
from srdef.attacks.losses import difference_of_logits_ratio, loss_to_climb
from srdef.attacks.square import Square
from srdef.batching import map_batches
from srdef.programs import jit
from srdef.victims import Victim, expected

# Draws that tell a random victim from a deterministic one: a coin that falls the same way so many times in
# each of a few images is none.
_DRAWS = 16
# Shares of the length of an image's logits, as in the published code: less than this is rounding.
_SAME_LOGITS = 1e-4
_FEWER_RIGHT = 0.002

WITHOUT_GRADIENT = (Square, HopSkipJump)


@jit
def _logits(victim: Victim, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Logits `(draws, N, classes)` with a key for each draw and image, `(draws, N)`."""
    return jax.lax.map(lambda keys: jax.vmap(victim)(images, keys), keys)


def is_random(victim: Victim, images: np.ndarray, key: jax.Array) -> bool:
    """Whether the logits of images `(N, height, width, 3)` depend on the key.

    Each image gets several keys of its own. Differences as small as those of rounding do not count,
    and neither do logits that are not finite.
    """
    keys = jax.random.split(key, (_DRAWS, len(images)))
    logits = np.asarray(_logits(victim, keys, images), np.float64)
    logits = np.where(np.isfinite(logits).all(axis=0), logits, 0)
    size = np.linalg.norm(logits, axis=-1).max(axis=0)
    furthest = np.linalg.norm(logits - logits[0], axis=-1).max(axis=0)
    return bool((furthest > _SAME_LOGITS * size).any())


def _dlr(victim: Victim, x: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
    return expected(victim, lambda logits: difference_of_logits_ratio(logits, label), x, key)


# As the attacks climb them.
_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross-entropy": lambda *arguments: loss_to_climb(*arguments)[0],
    "DLR loss": _dlr,
}


@partial(jit, static_argnames="loss")
def _zero_gradient(
    victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array, *, loss: str
) -> jax.Array:
    """Which images `(N,)` have a gradient that is zero, or not finite, so of no use either."""

    def one(image: jax.Array, label: jax.Array, i: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda x: _LOSSES[loss](victim, x, label, jax.random.fold_in(key, i)))(image)
        return ~(jnp.isfinite(gradient).all() & (gradient != 0).any())

    return jax.vmap(one)(images, labels, ids)


def warnings_before(
    victim: Victim,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: jax.Array,
    ids: np.ndarray,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> list[str]:
    """What can be seen before any attack has run, in plain sentences.

    Parameters
    ----------
    victim : Victim
        As the attacks see it.
    images, labels, key, ids, batch_size, mesh
        As for `perturb`: the images that are classified correctly.
    """
    found = []
    few = images[:16]
    keys = jax.random.split(key, (1, len(few)))
    logits = np.asarray(_logits(victim, keys, few), np.float64)[0]
    if programs.are_probabilities(logits).all():
        found.append(PROBABILITIES)
    options: dict[str, Any] = {"batch_size": batch_size, "mesh": mesh}
    for loss in _LOSSES:
        if loss == "DLR loss" and logits.shape[-1] < 3:
            continue
        program = partial(_zero_gradient, loss=loss)
        count = int(map_batches(program, (victim, key), (images, labels, ids), **options).sum())
        if count:
            found.append(
                f"{count} of {len(images)} images have a zero gradient of the {loss}, so attacks with "
                "gradients cannot judge them; replace the gradient of what masks it "
                '(Defended(..., gradient="identity") or a surrogate)'
            )
    return found


def warnings_on_the_way(nonfinite: np.ndarray, zero_gradient: np.ndarray) -> list[str]:
    """What attacks have met, in plain sentences, given for which images `(N,)` they did."""
    found = []
    if nonfinite.any():
        found.append(
            f"{int(nonfinite.sum())} of {len(nonfinite)} images had gradients or logits that are not finite, "
            "which counted as zero, and as no success; mend the victim"
        )
    if zero_gradient.any():
        found.append(
            f"{int(zero_gradient.sum())} of {len(zero_gradient)} images are not fooled and had a gradient of "
            "exactly zero on the way, so gradients may be masked"
        )
    return found


def warnings_after(attacks: Mapping[str, Attack], robust_accuracy: Mapping[str, float]) -> list[str]:
    """What the robust accuracy after each attack shows, in plain sentences."""
    blind = {name for name, attack in attacks.items() if isinstance(attack, WITHOUT_GRADIENT)}
    others = [accuracy for name, accuracy in robust_accuracy.items() if name not in blind]
    found = []
    for name in sorted(blind):
        if others and robust_accuracy[name] < min(others) - _FEWER_RIGHT:
            found.append(
                f"{name}, which sees no gradient, lowers the accuracy by "
                f"{min(others) - robust_accuracy[name]:.1%} where attacks with gradients are at their end, "
                "so gradients are masked; "
                "replace the gradient, give it more queries, or write an adaptive attack"
            )
    return found
