"""Training some parts of a classifier further while the others stay as they are."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from srdef.errors import InputError
from srdef.weights import loading


def replace_classifier(network: Any, num_classes: int, seed: int = 0) -> None:
    """Give `network` a new last layer with random weights for `num_classes` classes, in place.

    Raises
    ------
    InputError
        If the network has no dense last layer, or for fewer than one class.
    """
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, not {num_classes}")
    classifier = getattr(network, "classifier", None)
    if not isinstance(classifier, nnx.Linear):
        raise InputError(f"{type(network).__name__} has no dense last layer")
    network.classifier = nnx.Linear(classifier.in_features, num_classes, rngs=nnx.Rngs(seed))
    network.num_classes = num_classes


def train_only(network: Any, parts: tuple[str, ...]) -> Callable[[Any, Any], bool]:
    """Put the named parts of `network` into train mode and everything else into evaluation mode.

    A frozen part keeps its running statistics and normalises with them; a trained part normalises with
    the batch and updates its own.

    Parameters
    ----------
    network : nnx.Module
        Changed in place.
    parts : tuple of str
        Paths of modules as srdef's weights files have them: `("mixed.9", "mixed.10", "classifier")`.

    Returns
    -------
    callable
        The filter of the parameters to train, for `nnx.DiffState(0, filter)` and `nnx.Optimizer(...,
        wrt=filter)`.

    Raises
    ------
    InputError
        If a part has no weights.
    """
    network.eval()
    names = list(loading.named_variables(network))
    for part in parts:
        if not any(name.startswith(f"{part}.") for name in names):
            raise InputError(f"{type(network).__name__} has no part {part!r} with weights")
    for path, module in nnx.iter_modules(network):
        if any(f"{_dotted(path)}.".startswith(f"{part}.") for part in parts):
            module.set_attributes(raise_if_not_found=False, use_running_average=False, deterministic=False)

    def is_trained(path: Any, value: Any) -> bool:
        parameter = nnx.filterlib.to_predicate(nnx.Param)(path, value)
        return parameter and any(f"{_dotted(path)}.".startswith(f"{part}.") for part in parts)

    return is_trained


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
