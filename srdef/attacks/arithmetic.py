"""What the steps of attacks are computed in; whatever `perturb` reports is computed in float32.

An accelerator multiplies matrices several times faster when it rounds their factors first. An attack may take
its gradients and searches so: whether it has succeeded is judged afterwards, by a program of its own.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any, Literal, get_args

import jax
import numpy as np

from srdef.attacks.base import Attack, AttackResult
from srdef.attacks.trace import side_by_side
from srdef.validation import check_choice

Arithmetic = Literal["float32", "tensorfloat32", "bfloat16"]


def check_arithmetic(arithmetic: Any) -> None:
    """InputError if it is neither one of `Arithmetic` nor None."""
    if arithmetic is not None:
        check_choice("arithmetic", arithmetic, get_args(Arithmetic))


def computing_in(arithmetic: Arithmetic | None) -> AbstractContextManager[Any, None]:
    """A context in which products and convolutions that name no precision are compiled in this arithmetic.

    None leaves that of the program, `jax_default_matmul_precision`.
    """
    if arithmetic is None:
        return nullcontext()
    # JAX knows float32 by several words, and compiles once for each; this is that of the commands.
    return jax.default_matmul_precision("highest" if arithmetic == "float32" else arithmetic)


def judging_in(arithmetic: Arithmetic | None) -> AbstractContextManager[Any, None]:
    """The context of all that an attack with these steps reports: float32, or with None the program's."""
    return computing_in(None if arithmetic is None else "float32")


def note(arithmetic: Arithmetic | None) -> str:
    """What stands under a table of attacks; nothing for float32, which is the rule."""
    if arithmetic in (None, "float32"):
        return ""
    return (
        f"Attacks took their steps in {arithmetic}; their success, distances and all accuracies are computed "
        "in float32."
    )


def misjudged(attack: Attack, result: AttackResult, arithmetic: Arithmetic | None) -> np.ndarray:
    """The rows whose attack has ended with what only the lower precision took for adversarial.

    An attack in a ball has stopped before its last step there. One of minimal norm keeps the nearest image
    that it took for adversarial; where that is none in float32, a farther one may be. One that took all its
    steps and returns the image itself has found nothing.
    """
    if arithmetic in (None, "float32"):
        return np.zeros(0, int)
    found = np.bool_(attack.minimal_norm) & (result.l0 > 0)
    return np.flatnonzero((found | (result.steps < attack.max_steps)) & ~result.success)


def with_rows(result: AttackResult, rows: np.ndarray, again: AttackResult) -> AttackResult:
    """A result with some rows replaced by those of a second run; the steps are those of both."""
    changes: dict[str, Any] = {}
    for field in fields(result):
        old, new = getattr(result, field.name), getattr(again, field.name)
        if isinstance(old, jax.Array):  # the images, if they stay on the devices
            changes[field.name] = old.at[rows].set(new)
        elif isinstance(old, np.ndarray):
            changes[field.name] = old.copy()
            changes[field.name][rows] = old[rows] + new if field.name == "steps" else new
    if result.trace is not None:
        columns = [jax.tree.map(lambda x, i=i: x[:, [i]], result.trace) for i in range(len(result.success))]
        for place, row in enumerate(rows):
            columns[row] = jax.tree.map(lambda x, i=place: x[:, [i]], again.trace)
        changes["trace"] = side_by_side(columns)
    return replace(result, **changes)
