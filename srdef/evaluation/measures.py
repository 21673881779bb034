"""What is kept of every image: how far an attack came, and what the classifier says."""

from typing import Any

import numpy as np

from srdef import attacks
from srdef.storage.memory import Store

# Whether anything was not finite on the way, and whether a gradient was zero.
FLAGS = ("nonfinite", "zero_gradient")
MEASURES: dict[str, tuple[tuple[int, ...], Any]] = {
    "success": ((), np.uint8),
    "linf": ((), np.float32),
    "l2": ((), np.float32),
    **{name: ((), np.uint8) for name in FLAGS},
}

# What the classifier says of an image.
PREDICTION: dict[str, tuple[tuple[int, ...], Any]] = {
    "prediction": ((), np.int32),
    "confidence": ((), np.float32),
}


def flags(result: attacks.AttackResult) -> dict[str, np.ndarray]:
    """For each image whether anything was not finite on the way, and whether a gradient was zero."""
    return {name: getattr(result, name).astype(np.uint8) for name in FLAGS}


def measures(result: attacks.AttackResult) -> dict[str, np.ndarray]:
    """The arrays `MEASURES` of a result, flags as 0 and 1."""
    return {
        "success": result.success.astype(np.uint8),
        "linf": result.linf,
        "l2": result.l2,
        **flags(result),
    }


def read_measures(store: Store) -> dict[str, np.ndarray]:
    """The arrays `MEASURES` of a store, flags as booleans."""
    found = {name: store.read(name) for name in MEASURES}
    return {
        name: values.astype(bool) if values.dtype == np.uint8 else values for name, values in found.items()
    }
