"""Initial points of one's own: which attacks take them, and in what form."""

import inspect
from typing import Any

import jax
import numpy as np

from srdef.attacks.base import REGISTRY, Attack
from srdef.errors import InputError
from srdef.validation import check_images, one_start_per_image


def takes_start(kind: Any) -> bool:
    """Whether an attack, or a class of attacks, has an initial point that can be given."""
    if not isinstance(kind, type):
        kind = type(kind)
    field = "start" in getattr(kind, "__dataclass_fields__", {})
    return issubclass(kind, Attack) and (field or kind.start_at is not Attack.start_at)


def names() -> list[str]:
    """The registered attacks that take `start`."""
    made = {name: REGISTRY.builder(name) for name in REGISTRY.names()}
    kinds = {
        name: builder if isinstance(builder, type) else inspect.signature(builder).return_annotation
        for name, builder in made.items()
    }
    return [name for name, kind in kinds.items() if isinstance(kind, type) and takes_start(kind)]


def with_start(
    attack: Attack, start: np.ndarray | jax.Array, images: np.ndarray | jax.Array
) -> tuple[Attack, np.ndarray | None]:
    """The attack and one start for each image; None if the attack has a field `start` and holds it now.

    Raises
    ------
    InputError
        For an attack that has no initial point, with those that have; for a start that is no image in [0, 1]
        of the shape of the images.
    """
    if not takes_start(attack):
        raise InputError(f"{type(attack).__name__} takes no start; these attacks do: {', '.join(names())}")
    start = np.asarray(start)
    start = check_images(start if start.ndim == 4 else start[None], "start")
    start = one_start_per_image(start if len(start) > 1 else start[0], images)
    if hasattr(attack, "start"):
        return attack.replace(start=start), None  # type: ignore[attr-defined]
    return attack, start
