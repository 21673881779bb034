"""Networks by name, with random or trained weights."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from flax import nnx

from srdef.errors import InputError
from srdef.models.frameworks import wrap
from srdef.paths import expanded
from srdef.programs import jit
from srdef.registry import Registry, check_options
from srdef.validation import check_count, check_flags
from srdef.weights import catalog, download, loading, readers

REGISTRY = Registry("model")

M = TypeVar("M", bound=nnx.Module)

# Drawing random weights runs once: optimising that program takes far longer than it saves.
_QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


class _Keys(nnx.RngStream):
    """The keys of `nnx.Rngs`, counted in Python: traced counts take most of the time that a network takes."""

    def __init__(self, key: Any, *, tag: str) -> None:
        super().__init__(key, tag=tag)
        self.given = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.given)
        self.given += 1
        return key


def _rngs(builder: Callable[..., Any], seed: int) -> nnx.Rngs:
    """`nnx.Rngs(seed)`, or what gives the same keys to a network that keeps none to draw from, as srdef's."""
    rngs = nnx.Rngs(seed)
    if builder.__module__.startswith("srdef.models."):
        setattr(rngs, "default", _Keys(seed, tag="default"))  # noqa: B010 - no attribute that mypy knows
    return rngs


def initialise(build: Callable[[], M]) -> M:
    """What `build` makes, its random weights drawn by one program that is quickly compiled."""
    return jit(build, compiler_options=_QUICK_COMPILATION)()


def without_weights(name: str, **options: Any) -> Any:
    """The network `name` with `jax.ShapeDtypeStruct` in the place of its weights: nothing is computed."""
    builder = REGISTRY.builder(name)
    return nnx.eval_shape(lambda: builder(rngs=_rngs(builder, 0), **options))


def create(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Build the network `name`.

    Parameters
    ----------
    name : str
        One of `list_names()`; or `MODULE:FUNCTION` or `FILE.py:FUNCTION` of your own, which returns any model
        that `wrap` takes, or a network. It gets `pretrained`, `weights`, `seed` and `rngs` if it takes them.
    pretrained : bool
        Load the weights that `srdef.weights.catalog` has under this name. A super-resolution network takes
        those that srdef trained itself and never its authors', so that the same call does not change its
        meaning on the day when srdef's own are there.
    weights : str or path, optional
        A variant that the catalog has for this network (`official` for EDSR's authors' own), which is
        downloaded once. Or a file: `.safetensors`, `.npz`, `.pth`, `.pt` or `.pkl` in srdef's own layout
        (as `srdef.weights.loading.save_safetensors` writes it) or in that in which the network's authors
        published theirs, also with a trainer's `module.`, `model.` or `_orig_mod.` before every name;
        `.h5` in that of `keras.applications`.
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
        For an unknown name or option, a network without trained weights (of srdef's own, for
        super-resolution), a download that fails, or a weights file that is missing, damaged, much larger
        than the network, not finite, or does not fit the network tensor by tensor.
    """
    check_flags(pretrained=pretrained)
    check_count("seed", seed, least=0)
    if ":" in name:
        return _own(name, {"pretrained": pretrained, "weights": weights, "seed": seed}, options)
    builder = REGISTRY.builder(name)
    parameters = inspect.signature(builder).parameters
    valid = [parameter for parameter in parameters if parameter != "rngs"]
    for option in options:
        if option not in valid:
            raise InputError(
                f"model {name!r} has no option {option!r}; its options are: {', '.join(valid) or 'none'}"
            )
    check_options(f"model {name!r}", builder, {"rngs": None} | options)
    for option, value in options.items():
        if parameters[option].annotation is int:  # the networks say which of them may be 0
            check_count(f"model {name!r}: {option}", value, least=0)
    if pretrained and weights is not None:
        raise InputError(f"model {name!r}: give either pretrained=True or weights, not both")

    def build() -> nnx.Module:
        return builder(rngs=_rngs(builder, seed), **options)

    if not pretrained and weights is None:
        return initialise(build)
    module = nnx.eval_shape(build)
    entry = catalog.entry(name) if pretrained else catalog.variants(name).get(str(weights))
    if isinstance(entry, catalog.Download):
        if pretrained and entry.variant == "official":
            own = [shipped.name for shipped in catalog.CATALOG.values() if shipped.package == "srdef"]
            raise InputError(
                f"srdef has no weights of its own for model {name!r}; weights='official' takes those of its "
                f"authors (a download); srdef has its own for: {', '.join(own)}"
            )
        _load_file(module, _converted(entry))
    elif entry is not None:
        _load_file(module, catalog.locate(entry), entry.sha256)
    else:
        file = expanded(str(weights))
        _check_file(name, file)
        _load_file(module, file)
    return module


def _own(name: str, common: dict[str, Any], options: dict[str, Any]) -> Any:
    """What a function of the user's own makes; `common` are the options that every network of srdef has."""
    builder = REGISTRY.builder(name)
    try:
        known = inspect.signature(builder).parameters
    except ValueError:
        known = inspect.signature(lambda: None).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for option in ("pretrained", "weights"):
        if common[option] and option not in known and not anything:
            raise InputError(
                f"model {name!r} has no option {option!r}, as srdef's own have; its options are: "
                f"{', '.join(known) or 'none'}"
            )
    for option, value in common.items():
        if option in known or value:  # a seed of 0 is as good as none
            options[option] = value
    if "rngs" in known:
        options["rngs"] = nnx.Rngs(common["seed"])
        if "seed" not in known:
            options.pop("seed", None)
    check_options(f"model {name!r}", builder, options)
    made = builder(**options)
    if isinstance(made, nnx.Module) and hasattr(made, "scale"):  # a super-resolution network
        return made
    try:
        return wrap(made)
    except InputError as error:
        raise InputError(f"model {name!r}: {error}") from None


def convert(name: str, file: str | Path, output: str | Path) -> None:
    """Read published weights of the network `name` and write them in srdef's own layout.

    Parameters
    ----------
    name : str
        One of `list_names()`; the network is built with its default options.
    file : path
        As for `create`.
    output : path
        A `.safetensors` file; it appears whole or not at all.

    Raises
    ------
    InputError
        For an unknown name, or a file that cannot be read or written or does not fit.
    """
    module = without_weights(name)
    _load_file(module, expanded(file))
    loading.save_safetensors(module, output)


def _converted(entry: catalog.Download) -> Path:
    """A published file in srdef's layout, fetched and converted the first time."""
    path = download.converted_path(entry)
    if not path.is_file():
        convert(entry.name, download.fetch(entry), path)
    return path


def _check_file(name: str, file: Path) -> None:
    """InputError for a word that can only have been meant as a variant; lists those that there are."""
    if file.suffix in readers.SUFFIXES or file.exists():
        return
    known = ", ".join(catalog.variants(name)) or "none"
    raise InputError(
        f"model {name!r} has no weights {str(file)!r}; its variants are: {known}; a file ends in one of: "
        f"{', '.join(readers.SUFFIXES)}"
    )


def _load_file(module: nnx.Module, file: Path, sha256: str | None = None) -> None:
    tensors = readers.read(file, sha256=sha256, needed=loading.size_in_bytes(module))
    loading.check_settings(module, file)
    keras = file.suffix in readers.KERAS_SUFFIXES
    convert_layout = loading.convert_keras if keras else loading.convert_named
    tensors = convert_layout(module, tensors, str(file))
    if getattr(module, "classifier", True) is None:  # built without the last layer
        tensors = {name: array for name, array in tensors.items() if not name.startswith("classifier.")}
    loading.load(module, tensors, str(file))


def list_names() -> list[str]:
    """The names that `create` knows."""
    return REGISTRY.names()
