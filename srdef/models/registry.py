"""Networks by name, with random or trained weights."""

import inspect
from pathlib import Path
from typing import Any

from flax import nnx

from srdef.errors import InputError
from srdef.registry import Registry
from srdef.weights import catalog, loading, readers

REGISTRY = Registry("model")


def create(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> nnx.Module:
    """Build the network `name`.

    Parameters
    ----------
    name : str
        One of `list_names()`.
    pretrained : bool
        Load the weights that `srdef.weights.catalog` has under this name.
    weights : path, optional
        Load this file instead: `.safetensors` or `.npz` in srdef's own layout (as
        `srdef.weights.loading.save_safetensors` writes it), or `.pth`/`.pt` in the layout in which
        the network's authors published theirs.
    seed : int
        Of the random weights, when none are loaded.
    **options
        Given to the network's builder (for example `num_classes=10`).

    Returns
    -------
    nnx.Module
        In evaluation mode.

    Raises
    ------
    InputError
        For an unknown name or option, a network without trained weights, or a weights file that
        is missing, damaged, or does not fit the network tensor by tensor.
    """
    builder = REGISTRY.builder(name)
    valid = [parameter for parameter in inspect.signature(builder).parameters if parameter != "rngs"]
    for option in options:
        if option not in valid:
            raise InputError(
                f"model {name!r} has no option {option!r}; its options are: {', '.join(valid) or 'none'}"
            )
    if pretrained and weights is not None:
        raise InputError(f"model {name!r}: give either pretrained=True or weights, not both")

    def build() -> nnx.Module:
        return builder(rngs=nnx.Rngs(seed), **options)

    if pretrained:
        entry = catalog.entry(name)
        file, sha256 = catalog.locate(entry), entry.sha256
    elif weights is not None:
        file, sha256 = Path(weights), None
    else:
        return nnx.jit(build)()
    tensors = readers.read(file, sha256=sha256)
    module = nnx.eval_shape(build)
    if file.suffix in readers.TORCH_SUFFIXES:
        tensors = loading.convert_published(module, tensors, str(file))
    loading.load(module, tensors, str(file))
    return module


def list_names() -> list[str]:
    """The names that `create` knows."""
    return REGISTRY.names()
