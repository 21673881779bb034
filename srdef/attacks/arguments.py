"""What `perturb` is given, checked before anything is computed."""

from typing import Any

import jax
import numpy as np

from srdef import validation
from srdef.attacks import programs
from srdef.attacks.base import Attack
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.targets import TargetName, choose
from srdef.batching import map_batches
from srdef.errors import InputError, warn
from srdef.keys import check_key
from srdef.own_code.edits import notice_edits
from srdef.victims import Victim, canvas_side, check_victim

Images = np.ndarray | jax.Array


def check_arguments(
    attack: Any, victim: Victim, images: Any, ids: Any, key: Any, on_device: bool = False
) -> tuple[Any, np.ndarray, jax.Array, Attack, int]:
    """Images, ids and key as they shall be, the attack with a row per image in each leaf, and the classes."""
    if not isinstance(attack, Attack):
        raise InputError(f"attack must be an attack like attacks.fgsm(), not {attack!r}")
    if jax.tree_util.all_leaves([attack]):
        kind = type(attack).__name__
        raise InputError(f"{kind} is no pytree: write @flax.struct.dataclass above its class")
    if has_ball(attack):
        _check_ball(attack)
    images = validation.check_images(images, on_device=on_device)
    key = check_key(key)
    notice_edits(attack)
    classes = check_victim(victim, images.shape[1:])
    if getattr(attack, "enlarges", False):  # as DiverseInputs does
        height, width, channels = images.shape[1:]
        try:
            check_victim(victim, (canvas_side(height), canvas_side(width), channels))
        except InputError as error:
            raise InputError(
                f"{error}; the attack enlarges images of {height}x{width} (DiverseInputs): give it "
                "same_size=True, or a model that takes any size"
            ) from error
    ids = validation.check_ids(ids, len(images))
    return images, ids, key, one_row_per_image(attack, images), classes


def has_ball(attack: Any) -> bool:
    """Whether an attack stays in a ball of a radius `epsilon`; others have none, or end a search there."""
    return hasattr(attack, "epsilon") and not attack.minimal_norm


def _check_ball(attack: Any) -> None:
    """InputError for a radius that is none; a warning if the steps end far from the border of the ball.

    As those of an attack in which somebody has replaced the radius alone.
    """
    validation.check_epsilon(attack.epsilon, attack.norm)
    travel = getattr(attack, "travel", None)
    if travel is not None and (np.asarray(travel) < np.asarray(attack.epsilon) / 2).any():
        warn(
            f"{type(attack).__name__}: its {attack.steps} steps lead {np.min(travel):.3g} away at most, and "
            f"its ε is {np.max(attack.epsilon):.3g}: the victim looks more robust than it is; give a larger "
            "step_size or more steps (`replace` of ε keeps both)"
        )


def one_row_per_image(attack: Any, images: Images) -> Any:
    """The attack, or the attacks of an ensemble, with one row per image in every leaf."""

    def rows(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, Attack | Ensemble):  # no pytree
            return leaf
        if path and getattr(path[-1], "name", "") == "start":  # an image and no number
            return validation.one_start_per_image(leaf, images)
        return validation.one_row_per_image(leaf, len(images))

    return jax.tree_util.tree_map_with_path(rows, attack)


def some_rows(attack: Any, rows: np.ndarray) -> Any:
    """What `one_row_per_image` returns, for some of the images."""
    return jax.tree.map(lambda leaf: leaf[rows] if isinstance(leaf, np.ndarray) else leaf, attack)


def check_labels(
    attack: Attack,
    victim: Victim,
    labels: Any,
    images: Images,
    key: jax.Array,
    ids: np.ndarray,
    classes: int,
    options: dict[str, Any],
    targets: TargetName | None = None,
) -> np.ndarray:
    """The labels `(N,)` as `perturb` takes them: given, predicted, or targets."""
    if isinstance(labels, str):
        validation.check_choice("labels", labels, ("predicted",))
        if attack.targeted and targets is None:
            raise InputError(
                'labels="predicted" gives a targeted attack no target; give the classes to reach'
            )
        labels = map_batches(programs.predict, (victim, key), (images, ids), **options)
    labels = validation.check_labels(labels, len(images), classes)
    if targets is None:
        if attack.targeted:
            _warn_of_targets_reached(victim, labels, images, key, ids, options)
        return labels
    if not attack.targeted:
        possible = "targeted" in getattr(attack, "__dataclass_fields__", ())
        advice = "make it with targeted=True" if possible else f"{type(attack).__name__} cannot be"
        raise InputError(f"targets are for targeted attacks: {advice}")
    return choose(
        targets, victim, images, labels, classes, key=key, ids=ids, batch_size=options["batch_size"]
    )


def _warn_of_targets_reached(
    victim: Victim,
    labels: np.ndarray,
    images: Images,
    key: jax.Array,
    ids: np.ndarray,
    options: dict[str, Any],
) -> None:
    """Whoever gives the images' own classes in the place of targets is told of success everywhere."""
    reached = int((map_batches(programs.predict, (victim, key), (images, ids), **options) == labels).sum())
    if 2 * reached > len(labels):
        warn(
            f"{reached} of {len(labels)} images are classified as their target before the attack: a targeted "
            'attack takes the classes to reach in the place of the labels (or choose them: targets="random")'
        )
