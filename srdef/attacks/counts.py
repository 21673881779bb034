"""What the programs of an attack are given of it: other numbers of steps are no other program.

A number of steps is static in an attack: it is a plain number wherever Python looks at it, and in the program
of an attack that is called on one image. `perturb` runs the loop itself, and compiling takes as long as many
steps; so its programs get the counts that an attack declares as arrays, like its other numbers.
"""

from dataclasses import Field, fields, is_dataclass
from typing import Any

import jax
import numpy as np
from flax import struct

from srdef.attacks.base import Attack
from srdef.errors import InputError

# By field; of an attack within the attack, a dictionary.
Counts = dict[str, Any]

# The most steps: programs count them in int32, and one more must not overflow.
MOST = 2**31 - 2


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
        """Of an attack whose leaves have one row for each of so many images.

        InputError for more steps than programs can count, and for `counts` that are none.
        """
        if attack.max_steps > MOST:
            raise InputError(
                f"{type(attack).__name__} would take {attack.max_steps} steps, of which {MOST} can be counted"
            )
        counts = jax.tree.map(lambda count: np.full(images, count, np.int32), _counts_of(attack))
        return cls(_without(attack, counts), counts)

    @property
    def attack(self) -> Any:
        """The attack of one image, within a program: its counts are traced there."""
        return _with(self.without_counts, self.counts)


def program_of(attack: Attack) -> Any:
    """What tells attacks with other programs apart, to be compared and hashed."""
    return jax.tree.structure(_without(attack, _counts_of(attack)))


def _counts_of(attack: Attack) -> Counts:
    """Those that its class itself declares; a class made from it may need plain numbers."""
    kind = type(attack)
    declared = vars(kind).get("counts", ())
    if not isinstance(declared, tuple | list):
        raise InputError(
            f"{kind.__name__}.counts must be a tuple of names, as ('steps',), not {declared!r:.80}"
        )
    counts: Counts = {}
    for name in declared:
        value = getattr(attack, name, None) if isinstance(name, str) else None
        if isinstance(value, Attack) and name in _fields_of(attack):
            if of_inner := _counts_of(value):
                counts[name] = of_inner
        elif name in (possible := _whole_numbers_of(attack)):
            counts[name] = value
        else:
            valid = f"has {', '.join(possible)}" if possible else "has none"
            raise InputError(
                f"{kind.__name__}.counts: {name!r} is neither an attack nor a static field with a whole "
                f"number below 2**31; the class {valid}"
            )
    return counts


def _fields_of(attack: Attack) -> dict[str, Field]:
    """None of an attack that `replace` cannot give others."""
    if not is_dataclass(attack) or not hasattr(attack, "replace"):
        return {}
    return {field.name: field for field in fields(attack)}


def _whole_numbers_of(attack: Attack) -> list[str]:
    found = []
    for name, field in _fields_of(attack).items():
        value = getattr(attack, name)
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if is_whole and abs(value) < 2**31 and not field.metadata.get("pytree_node", True):
            found.append(name)
    return found


def _without(attack: Any, counts: Counts) -> Any:
    """The attack with 0 in the place of these counts."""
    return _with(attack, jax.tree.map(lambda _: 0, counts))


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
