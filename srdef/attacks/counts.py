"""What the programs of an attack are given of it: other numbers of steps are no other program.

A number of steps is static in an attack: it is a plain number wherever Python looks at it, and in the program
of an attack that is called on one image. `perturb` runs the loop itself, and compiling takes as long as many
steps; so its programs get the counts that an attack declares as arrays, like its other numbers.
"""

from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np
from flax import struct

from srdef.attacks.base import Attack

# By field; of an attack within the attack, a dictionary.
Counts = dict[str, Any]


@struct.dataclass
class AttackRows:
    """An attack with one row per image in every leaf, its counts among them.

    Attributes
    ----------
    without_counts : Attack
        With 0 in the place of each.
    counts : dict
        Of int32 arrays (N,), or within a program of those of one image; as `_counts_of` names them.
    """

    without_counts: Any
    counts: Counts

    @classmethod
    def create(cls, attack: Attack, images: int) -> "AttackRows":
        """Of an attack whose leaves have one row for each of so many images."""
        counts = _counts_of(attack)
        rows = jax.tree.map(lambda count: np.full(images, count, np.int32), counts)
        return cls(_with(attack, jax.tree.map(lambda _: 0, counts)), rows)

    @property
    def attack(self) -> Any:
        """The attack of one image, within a program: its counts are traced there."""
        return _with(self.without_counts, self.counts)


def program_of(attack: Attack) -> Any:
    """What tells attacks with other programs apart, to be compared and hashed."""
    return jax.tree.structure(_with(attack, jax.tree.map(lambda _: 0, _counts_of(attack))))


def _counts_of(attack: Attack) -> Counts:
    """Those that its class itself declares; a class made from it may need plain numbers."""
    counts: Counts = {name: getattr(attack, name) for name in vars(type(attack)).get("counts", ())}
    names: list[str] = [field.name for field in fields(attack)] if is_dataclass(attack) else []
    for name in names:
        inner = getattr(attack, name)
        if isinstance(inner, Attack) and (of_inner := _counts_of(inner)):
            counts[name] = of_inner
    return counts


def _with(attack: Any, counts: Counts) -> Any:
    """The attack with these counts."""
    if not counts:
        return attack
    return attack.replace(
        **{
            name: _with(getattr(attack, name), count) if isinstance(count, dict) else count
            for name, count in counts.items()
        }
    )
