"""What several attacks have in common that work on a batch one after the other."""

from collections.abc import Callable
from typing import Any

from srdef.errors import InputError


class Ensemble:
    """Several attacks that work on a batch one after the other: `perturb` hands it the whole batch."""

    perturb: Callable[..., Any]
    """What the function `perturb` does, with its parameters."""

    def repeat(self, n: int) -> Any:
        """Only for an attack on one image: InputError."""
        raise InputError(
            f"repeat is for an attack on one image; {type(self).__name__} runs several: repeat each of them"
        )
