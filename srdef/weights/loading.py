"""From a flat dictionary of arrays to a network and back, strictly.

In srdef's own layout a tensor's name is its path in the network, joined by dots
(`blocks.3.conv1.kernel`), and its axes are the network's own.
"""

import json
import math
import re
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
from srdef.storage.files import replacing
from srdef.weights import containers, readers

# Under this name a `.safetensors` file has what its network computes with beside its tensors.
_SETTINGS = "srdef.settings"

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


def _matching(name: str, rules: Sequence[Rule]) -> tuple[Rule, re.Match[str]] | None:
    """The first rule whose pattern is the whole name."""
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return rule, match
    return None


def _renamed(name: str, rules: Sequence[Rule]) -> str | None:
    """What `rename` makes of a name; None if it is ignored."""
    if not (found := _matching(name, rules)):
        return name
    rule, match = found
    return None if rule.name is None else match.expand(rule.name)


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
        name = _renamed(published, rules)
        if name is None:
            continue
        try:
            found = _matching(published, rules)
            array = found[0].transform(array) if found else array
        except ValueError:
            raise InputError(f"{published:.80} has the unexpected shape {array.shape}") from None
        if name in renamed:
            raise InputError(f"two tensors would be called {name:.80}; one of them is {published:.80}")
        renamed[name] = array
    return renamed


def convert_named(
    network: nnx.Module, tensors: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """To srdef's own layout from that in which the network's weights were published, or from srdef's own.

    The rules of the published layout are the attribute `published_rules` of the network's class; what they
    leave out its method `check_published` looks at, if there is one. Which of the two layouts it is, and
    whether every name begins with something that a trainer put there (`srdef.weights.containers.PREFIXES`),
    is told by the names: those count that the network then has.

    Raises
    ------
    InputError
        If the rules do not fit, or what they leave out; `where` names the file.
    """
    own = named_variables(network)
    published: Sequence[Rule] = getattr(network, "published_rules", ())
    layouts: list[tuple[int, Mapping[str, np.ndarray], Sequence[Rule]]] = []
    for unwrapped in containers.without_prefixes(tensors):
        layouts.append((sum(name in own for name in unwrapped), unwrapped, ()))
        renamed = (_renamed(name, published) for name in unwrapped)
        layouts.append((sum(name in own for name in renamed), unwrapped, published))
    _, unwrapped, rules = max(layouts, key=lambda layout: layout[0])
    try:
        if rules and hasattr(network, "check_published"):
            network.check_published(unwrapped)
        return rename(unwrapped, rules)
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
        If the network has no such order, or another number of tensors, or refuses weights of Keras; `where`
        names the file.
    """
    keras_names = getattr(network, "keras_names", None)
    if keras_names is None:
        raise InputError(f"{where}: {type(network).__name__} does not read weights of Keras")
    try:
        names = keras_names()
    except InputError as error:
        raise InputError(f"{where} does not fit {type(network).__name__}: {error}") from None
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


def size_in_bytes(network: nnx.Module) -> int:
    """What the weights and statistics of `network`, which may be abstract, take in memory."""
    variables = named_variables(network).values()
    return sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)


def _misfits(variables: Mapping[str, nnx.Variable[Any]], tensors: Mapping[str, np.ndarray]) -> list[str]:
    """In words, what keeps `tensors` from being the values of `variables`; at most three names of a kind."""
    missing = [name for name in variables if name not in tensors]
    unknown = [name for name in tensors if name not in variables]
    problems = []
    prefix = containers.common_prefix(list(tensors))
    if unknown and prefix:
        problems.append(f"every name begins with {prefix:.80}")
    if missing:
        problems.append(f"missing {containers.some(missing)}")
    if unknown:
        problems.append(f"unknown {containers.some(unknown)}")
    others = []
    for name, variable in variables.items():
        if name not in tensors:
            continue
        array = tensors[name]
        if array.shape != variable.shape:
            others.append(f"{name} has shape {array.shape}, expected {variable.shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            others.append(f"{name} has type {array.dtype}, expected {variable.dtype}")
    problems += others[:3]
    if len(others) > 3:
        problems.append(f"and {len(others) - 3} more of another shape or type")
    return problems


def to_bytes(network: nnx.Module, tensors: Mapping[str, np.ndarray]) -> bytes:
    """A `.safetensors` file of tensors of `network`, with its settings beside them."""
    settings = _settings(network)
    return safetensors.numpy.save(dict(tensors), {_SETTINGS: json.dumps(settings)} if settings else None)


def _settings(network: nnx.Module) -> dict[str, Any]:
    """What a network computes with beside its tensors, as plain data, by the names of its options."""
    return network.beside_tensors() if hasattr(network, "beside_tensors") else {}


def check_settings(network: nnx.Module, file: str | Path) -> None:
    """InputError if a file that srdef wrote is of a network with other settings, as another range of levels.

    Its tensors would fit, and mean something else. Other files, and those of an older srdef, say nothing.
    """
    text = readers.metadata(file).get(_SETTINGS)
    if text is None:
        return
    try:
        kept = dict(json.loads(text))
    except (ValueError, TypeError):
        raise InputError(f"weights file {file}: the settings in it are damaged") from None
    for name, value in _settings(network).items():
        if name in kept and kept[name] != value:
            raise InputError(
                f"{file} does not fit {type(network).__name__}: it is of a network with {name} "
                f"{kept[name]!r}, and this one has {value!r}"
            )


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
        One line that names missing, unknown and misshapen tensors, three of each kind, or one that is not
        finite; the network is then as before.
    """
    variables = named_variables(network)
    if problems := _misfits(variables, tensors):
        raise InputError(f"{where} does not fit {type(network).__name__}: {'; '.join(problems)}")
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is told below
        arrays = {name: np.asarray(tensors[name], variable.dtype) for name, variable in variables.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            count = array.size - np.count_nonzero(np.isfinite(array))
            raise InputError(f"{where}: {name} is NaN or infinite in {count} of {array.size} elements")
    state = nnx.state(network)
    loaded = [
        (path, variable.replace(jax.device_put(arrays[".".join(map(str, path))])))
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
    tensors = {name: np.ascontiguousarray(array) for name, array in flatten(network).items()}
    with replacing(path) as unfinished:
        unfinished.write_bytes(to_bytes(network, tensors))
