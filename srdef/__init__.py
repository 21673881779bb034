"""srdef: super-resolution and other input transformations as defenses against adversarial attacks.

`import srdef` imports nothing else; `srdef.attacks`, `srdef.victims` and so on are imported when they are
first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srdef import (
        attacks,
        batching,
        cpu,
        datasets,
        defenses,
        detection,
        errors,
        evaluation,
        images,
        interpret,
        metrics,
        models,
        registry,
        reporting,
        robustness,
        storage,
        training,
        validation,
        victims,
        weights,
    )
    from srdef.robustness import evaluate_robustness

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "attacks",
    "batching",
    "cpu",
    "datasets",
    "defenses",
    "detection",
    "errors",
    "evaluate_robustness",
    "evaluation",
    "images",
    "interpret",
    "metrics",
    "models",
    "registry",
    "reporting",
    "robustness",
    "storage",
    "training",
    "validation",
    "victims",
    "weights",
]

FUNCTIONS = {"evaluate_robustness": "srdef.robustness"}
ROOMS = tuple(name for name in __all__ if name != "__version__" and name not in FUNCTIONS)


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"srdef.{name}")
    if name in FUNCTIONS:
        return getattr(import_module(FUNCTIONS[name]), name)
    raise AttributeError(f"module 'srdef' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *ROOMS, *FUNCTIONS]
