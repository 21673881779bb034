"""From a flat dictionary of arrays to a network and back, strictly.

In srdef's own layout a tensor's name is its path in the network, joined by dots
(`blocks.3.conv1.kernel`), and its axes are the network's own.
"""

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from srdef.errors import InputError

Transform = Callable[[np.ndarray], np.ndarray]


def conv_kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's `(out, in / groups, height, width)` as `(height, width, in / groups, out)`."""
    return weight.transpose(2, 3, 1, 0)


def linear_kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's `(out, in)` as `(in, out)`."""
    return weight.transpose(1, 0)


@dataclass(frozen=True)
class Rule:
    r"""How a published tensor is called here, and how its axes are changed.

    Parameters
    ----------
    pattern : str
        Regular expression that the whole published name must match.
    name : str or None
        The name here, with `\1`, `\2` for the groups of the pattern. None: the tensor is ignored.
    transform : function
        Applied to the array.
    """

    pattern: str
    name: str | None
    transform: Transform = lambda array: array


def batch_norm_rules(pattern: str, name: str) -> tuple[Rule, ...]:
    """The rules for a PyTorch BatchNorm; `num_batches_tracked` is ignored (it is only a count)."""
    parts = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    rules = tuple(Rule(rf"{pattern}\.{theirs}", f"{name}.{ours}") for theirs, ours in parts.items())
    return (*rules, Rule(rf"{pattern}\.num_batches_tracked", None))


def rename(tensors: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Apply to each tensor the first rule that matches its name.

    A name that no rule matches stays as it is, so that `load` lists it as unknown.

    Raises
    ------
    InputError
        If two tensors get one name, or a transform does not fit an array's number of axes.
    """
    renamed: dict[str, np.ndarray] = {}
    for published, array in tensors.items():
        name: str | None = published
        for rule in rules:
            match = re.fullmatch(rule.pattern, published)
            if match:
                name = None if rule.name is None else match.expand(rule.name)
                try:
                    array = rule.transform(array)
                except ValueError:
                    raise InputError(f"{published} has the unexpected shape {array.shape}") from None
                break
        if name is None:
            continue
        if name in renamed:
            raise InputError(f"two tensors would be called {name}; one of them is {published}")
        renamed[name] = array
    return renamed


def convert_published(
    network: nnx.Module, tensors: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """From the layout in which a network's weights were published to srdef's own.

    The rules are the attribute `published_rules` of the network's class.

    Raises
    ------
    InputError
        If the network has no such rules, or they do not fit; `where` names the file.
    """
    rules = getattr(network, "published_rules", None)
    if rules is None:
        raise InputError(
            f"{where}: {type(network).__name__} reads only .safetensors and .npz in srdef's layout"
        )
    try:
        return rename(tensors, rules)
    except InputError as error:
        raise InputError(f"{where} does not fit {type(network).__name__}: {error}") from None


def convert_keras(
    network: nnx.Module, tensors: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """From a Keras weights file to srdef's own layout, by the order of the tensors.

    The order is what the method `keras_names` of the network gives.

    Raises
    ------
    InputError
        If the network has no such order, or another number of tensors; `where` names the file.
    """
    keras_names = getattr(network, "keras_names", None)
    if keras_names is None:
        raise InputError(f"{where}: {type(network).__name__} does not read weights of Keras")
    names = keras_names()
    # Without a last layer, Keras's files end before its kernel and bias.
    if len(tensors) not in (len(names), len(names) - 2):
        counts = f"it has {len(tensors)} tensors, expected {len(names)}"
        raise InputError(f"{where} does not fit {type(network).__name__}: {counts}")
    return dict(zip(names, tensors.values(), strict=False))


def named_variables(network: nnx.Module) -> dict[str, nnx.Variable[Any]]:
    """Everything a network keeps, by name."""
    state = nnx.state(network)
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def flatten(network: nnx.Module) -> dict[str, np.ndarray]:
    """The weights and statistics of `network` in srdef's layout."""
    return {name: np.asarray(variable[...]) for name, variable in named_variables(network).items()}


def load(network: nnx.Module, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Put `tensors` (srdef's layout) into `network`, in place.

    Floating-point arrays of any width become the network's own type (float32).

    Parameters
    ----------
    network : nnx.Module
        May be abstract (made with `nnx.eval_shape`).
    tensors : dict
        One array for each weight and statistic of the network.
    where : str
        What the tensors come from, for the error message.

    Raises
    ------
    InputError
        One line that lists every missing, unknown and misshapen tensor; the network is then as
        before.
    """
    variables = named_variables(network)
    problems = [f"missing {name}" for name in variables if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in variables]
    for name, variable in variables.items():
        if name not in tensors:
            continue
        array = tensors[name]
        if array.shape != variable.shape:
            problems.append(f"{name} has shape {array.shape}, expected {variable.shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"{name} has type {array.dtype}, expected {variable.dtype}")
    if problems:
        raise InputError(f"{where} does not fit {type(network).__name__}: {'; '.join(problems)}")
    state = nnx.state(network)
    loaded = [
        (
            path,
            variable.replace(jax.device_put(np.asarray(tensors[".".join(map(str, path))], variable.dtype))),
        )
        for path, variable in nnx.to_flat_state(state)
    ]
    nnx.update(network, nnx.from_flat_state(loaded))


def save_safetensors(network: nnx.Module, path: str | Path) -> None:
    """Write the weights and statistics of `network` to a `.safetensors` file in srdef's layout.

    The file appears whole or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    path = Path(path)
    tensors = {name: np.ascontiguousarray(array) for name, array in flatten(network).items()}
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        unfinished.write_bytes(safetensors.numpy.save(tensors))
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror})") from None
    finally:
        unfinished.unlink(missing_ok=True)
