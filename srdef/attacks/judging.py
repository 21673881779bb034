"""Success and distances of adversarial images, as computed or rounded to 8 bits: `round_result`."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from srdef import errors, validation
from srdef.attacks import programs
from srdef.attacks.arguments import Images, check_arguments, has_ball
from srdef.attacks.base import Attack, AttackResult
from srdef.attacks.counts import AttackRows
from srdef.attacks.ensemble import Ensemble
from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.victims import Victim

PROBABILITIES = (
    "the victim's outputs are probabilities, on which losses of logits have next to no gradient, so that it "
    "looks robust; give the network without its softmax"
)


def judge(
    attack: Attack,
    victim: Victim,
    images: Images,
    adversarial: Images,
    labels: np.ndarray,
    key: jax.Array,
    ids: np.ndarray,
    draws: int,
    options: dict[str, Any],
    *,
    rounded: bool = False,
) -> AttackResult:
    """Success and distances of adversarial images, which are rounded to 8 bits first if `rounded`.

    Every leaf of `attack` has one row per image.
    """
    leaves, structure = jax.tree.flatten(AttackRows.create(attack, len(images)))

    def batch(
        victim: Victim,
        key: jax.Array,
        images: jax.Array,
        adversarial: jax.Array,
        labels: jax.Array,
        ids: jax.Array,
        *rows: jax.Array,
    ) -> AttackResult:
        if rounded:
            every = jax.tree.unflatten(structure, rows)
            adversarial = programs.rounded(every, victim, key, images, adversarial, labels, ids)
        result = programs.judged(
            victim, key, images, adversarial, labels, ids, targeted=attack.targeted, draws=draws
        )
        return result.replace(images=adversarial, norm=attack.norm)

    return map_batches(batch, (victim, key), (images, adversarial, labels, ids, *leaves), **options)


def refuse_nan(
    victim: Victim, images: Images, ids: np.ndarray, key: jax.Array, options: dict[str, Any]
) -> None:
    """InputError if the victim's logits of one of the given images are NaN: it has no class to leave."""
    is_nan = map_batches(programs.is_nan, (victim, key), (images, ids), **options)
    if is_nan.any():
        index = int(np.argmax(is_nan))
        raise InputError(
            f"the victim's logits of image {index} (id {ids[index]}) are NaN before any attack; "
            f"so are those of {int(is_nan.sum())} of {len(images)} images"
        )


def warn(attack: Any, result: AttackResult, ids: np.ndarray) -> None:
    """One warning for each sign that success rates of this call are not what they seem."""
    if result.probabilities is not None and result.probabilities.all():
        errors.warn(PROBABILITIES)
    words = {
        "nonfinite": "gradients or logits that are not finite (they counted as zero, and as no success)",
        "zero_gradient": "a gradient of exactly zero though they are not fooled: the victim may be less "
        "robust than it looks (try another loss, or replace the gradient)",
    }
    for name, meaning in words.items():
        flags = getattr(result, name)
        if flags.any():
            errors.warn(
                f"{int(flags.sum())} of {len(flags)} images had {meaning}; ids {first_ids(ids[flags])}"
            )
    if not has_ball(attack):
        return
    # Rounding must not separate a perturbation of length ε from ε; sums of many squares round more.
    outside = getattr(result, attack.norm) > np.asarray(attack.epsilon) * 1.001 + 1e-6
    if outside.any():
        errors.warn(
            f"{int(outside.sum())} of {len(outside)} results of {type(attack).__name__} lie outside of its "
            f"ball of radius ε in {attack.norm}; ids {first_ids(ids[outside])}"
        )


def first_ids(ids: np.ndarray) -> str:
    """The first of the ids of images that are to be named."""
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")


def round_result(
    attack: Attack | Ensemble,
    victim: Victim,
    images: np.ndarray | jax.Array,
    adversarial: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> AttackResult:
    """Round images that `perturb` has attacked to 8 bits, and judge them again.

    Attacks with a budget round within it. Minimal-norm attacks, whose perturbations often lie below
    half a level, are scaled up as little as makes the rounded image adversarial. The result is
    that of `perturb` with `storage="uint8"`, without attacking once more.

    Parameters
    ----------
    images : float array (N, height, width, 3)
        The images before the attack, themselves multiples of 1/255 if rounding shall add nothing
        to the perturbation.
    adversarial : float array (N, height, width, 3)
        As `perturb` returned them.
    attack, victim, labels, key, ids, batch_size, mesh, progress
        As given to `perturb`.

    Returns
    -------
    AttackResult
        NumPy arrays; the images are exactly `srdef.images.from_uint8` of their levels.

    Raises
    ------
    InputError
        As `perturb`.

    Warns
    -----
    SrdefWarning
        If the victim's logits are NaN for some of the rounded images.
    """
    given = (attack, victim, images, adversarial, labels, key, ids)
    validation.check_not_traced("round_result", "attack.round on one image", *given)
    if isinstance(attack, Ensemble):  # one attack that is repeated
        attack = getattr(attack, "attack", attack)
    images, ids, key, attack, classes = check_arguments(attack, victim, images, ids, key)
    adversarial = validation.check_images(adversarial, "adversarial")
    if adversarial.shape != images.shape:
        raise InputError(
            f"adversarial must have the shape of the images, {images.shape}, not {adversarial.shape}"
        )
    labels = validation.check_labels(labels, len(images), classes)
    options = {"batch_size": batch_size, "mesh": mesh, "progress": progress}
    result = judge(
        attack, victim, images, adversarial, labels, key, ids, draws=1, options=options, rounded=True
    )
    warn(attack, result, ids)
    return result
