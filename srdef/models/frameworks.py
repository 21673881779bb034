"""Models of other frameworks as classifiers: one function for each framework, and `wrap` for all."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
from flax import nnx

from srdef.errors import InputError
from srdef.models.wrapped import Applied, Wrapped, alike, from_function
from srdef.own_code.reach import linen_fields, reach_of, without_addresses


@dataclass(frozen=True)
class _Call(Applied):
    """Calls what the parameters are: for models that are pytrees of their own weights."""

    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, model: Any, images: jax.Array) -> jax.Array:
        return model(images, **dict(self.options))

    def check(self, parameters: Any) -> None:
        if isinstance(parameters, nnx.Module):
            check_evaluation_mode(parameters)


def from_nnx(module: nnx.Module, **options: Any) -> Wrapped:
    """Make a classifier of a `flax.nnx` module in evaluation mode.

    Parameters
    ----------
    module : nnx.Module
        Called with images `(N, height, width, channels)`. A module that has `num_classes` and takes images
        in [0, 1] needs no wrapping. An argument `train`, `training`, `is_training` or `deterministic` of its
        `__call__` is set as for evaluation.
    **options
        As for `from_function`.

    Raises
    ------
    InputError
        As `from_function`, and for a module in training mode.
    """
    check_evaluation_mode(module)
    options.setdefault("num_classes", getattr(module, "num_classes", None))
    return from_function(_Call(evaluation_options(type(module).__call__)), module, **options)


def check_evaluation_mode(module: nnx.Module) -> None:
    """Raise InputError if a layer of an nnx module behaves as in training.

    A batch normalisation then changes its statistics, and the logits of an image depend on the batch.
    """
    for path, layer in nnx.iter_modules(module):
        training = [
            name
            for name, value in (("use_running_average", False), ("deterministic", False))
            if getattr(layer, name, None) is value
        ]
        if training:
            place = ".".join(map(str, path)) or type(layer).__name__
            raise InputError(
                f"{type(module).__name__} is in training mode ({place}: {training[0]}=False); "
                "call .eval() first"
            )


def check_networks(tree: Any) -> None:
    """Raise InputError for a network in a victim or a defense that is in training mode, or not as wrapped."""

    def is_network(node: Any) -> bool:
        return isinstance(node, Wrapped | nnx.Module)

    for leaf in jax.tree.leaves(tree, is_leaf=is_network):
        if isinstance(leaf, Wrapped):
            leaf.check()
        elif isinstance(leaf, nnx.Module):
            check_evaluation_mode(leaf)


@dataclass(frozen=True, eq=False)
class _Linen(Applied):
    holds = "module"
    module: Any
    options: tuple[tuple[str, Any], ...]

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        return self.module.apply(variables, images, **dict(self.options))

    def __hash__(self) -> int:
        return hash((type(self.module), self.options))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Linen)
            and self.options == other.options
            and _linen_alike(self.module, other.module)
        )

    def __repr__(self) -> str:
        return f"{type(self.module).__name__} {self.options} {reach_of(self.module)}"


def _linen_alike(one: Any, other: Any) -> bool:
    """Whether two linen modules, which may hold arrays and other modules, compute the same."""
    from flax import linen

    if not isinstance(one, linen.Module):
        return alike(one, other)
    return type(one) is type(other) and all(
        _linen_alike(getattr(one, name), getattr(other, name)) for name in linen_fields(one)
    )


def from_linen(module: Any, variables: Any = None, **options: Any) -> Wrapped:
    """Make a classifier of a `flax.linen` module and its variables.

    Parameters
    ----------
    module : flax.linen.Module
        Unbound, or bound to its variables. An argument `train`, `training`, `is_training` or `deterministic`
        of its `__call__` is set as for evaluation.
    variables : dict
        As `module.init` returns them: `{"params": ..., "batch_stats": ...}`.
    **options
        As for `from_function`.

    Raises
    ------
    InputError
        As `from_function`, and for a module without variables.
    """
    if getattr(module, "scope", None) is not None:
        module, variables = module.unbind()
    if variables is None:
        raise InputError("a flax.linen module needs its variables: from_linen(module, variables)")
    if not isinstance(variables, dict) and not hasattr(variables, "keys"):
        raise InputError(
            f"variables must be a dictionary as module.init returns it, not {type(variables).__name__}"
        )
    if "params" not in variables:
        variables = {"params": variables}
    return from_function(_Linen(module, evaluation_options(type(module).__call__)), variables, **options)


def evaluation_options(function: Callable[..., Any]) -> tuple[tuple[str, bool], ...]:
    """The arguments that tell a model that it is evaluated, of those that `function` has."""
    modes = {
        "train": False,
        "training": False,
        "is_training": False,
        "deterministic": True,
        "inference": True,
    }
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return ()
    return tuple((name, value) for name, value in modes.items() if name in names)


@dataclass(frozen=True, eq=False)
class _Equinox(Applied):
    """Calls an equinox model, which takes one image at a time."""

    holds = "static"
    static: Any
    stateful: bool

    def __call__(self, parameters: Any, images: jax.Array) -> jax.Array:
        import equinox

        arrays, state = parameters
        model = equinox.combine(arrays, self.static)
        if not self.stateful:
            return jax.vmap(model)(images)
        return jax.vmap(lambda image: model(image, state)[0], axis_name="batch")(images)

    def __hash__(self) -> int:
        return hash(self.stateful)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Equinox) or self.stateful != other.stateful:
            return False
        # What is no array, as an activation or a number, is a leaf of the second.
        (leaves, structure), (others, other_structure) = map(jax.tree.flatten, (self.static, other.static))
        return alike(structure, other_structure) and alike(leaves, others)

    def __repr__(self) -> str:
        return f"{jax.tree.structure(self.static)} {self.stateful} {reach_of(self.static)}"


def from_equinox(module: Any, state: Any = None, *, channels_first: bool = True, **options: Any) -> Wrapped:
    """Make a classifier of an equinox module, which maps one image to logits `(num_classes,)`.

    Parameters
    ----------
    module : equinox.Module
        Put into inference mode here.
    state : equinox.nn.State, optional
        Of a module with batch normalisations, as `equinox.nn.make_with_state` returns it.
    channels_first : bool
        Equinox's own layers take `(channels, height, width)`.
    **options
        As for `from_function`.
    """
    import equinox

    module = equinox.nn.inference_mode(module)
    arrays, static = equinox.partition(module, equinox.is_array)
    function = _Equinox(static, state is not None)
    return from_function(function, (arrays, state), channels_first=channels_first, **options)


@dataclass(frozen=True, eq=False)
class _Keras(Applied):
    """Calls a Keras model, which is the same as long as none of its layers is configured otherwise."""

    holds = "model"
    model: Any
    options: tuple[tuple[str, Any], ...]
    layers: str

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        outputs, _ = self.model.stateless_call(*variables, images, **dict(self.options))
        return outputs

    def __hash__(self) -> int:
        return hash((id(self.model), self.layers))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keras) and self.model is other.model and self.layers == other.layers

    def __repr__(self) -> str:
        return f"{type(self.model).__name__} {self.layers}"

    def what_is_reached(self) -> Any:
        """For `reach_of`: the variables are parameters."""
        return repr(self)

    def check(self, parameters: Any) -> None:
        if _keras_layers(self.model) != self.layers:
            raise InputError("the Keras model has been changed since it was wrapped; wrap it again")


def _keras_layers(model: Any) -> str:
    """The configurations of all layers, which hold no weights; the same in every process."""
    found = []
    for layer in model._flatten_layers():
        try:
            found.append((layer.path, layer.get_config()))
        except Exception:  # one of the user's own without a configuration, or a subclassed model
            plain = {n: v for n, v in vars(layer).items() if isinstance(v, bool | int | float | str | tuple)}
            found.append((layer.path, plain))
    return without_addresses(found)


def from_keras(model: Any, *, bounds: tuple[float, float] = (0.0, 1.0), **options: Any) -> Wrapped:
    """Make a classifier of a Keras 3 model on the JAX backend (`KERAS_BACKEND=jax`).

    Parameters
    ----------
    model : keras.Model
        Built; its last layer gives logits: `classifier_activation=None` in `keras.applications`.
    bounds : (low, high)
        Many Keras models take levels: `(0, 255)`.
    **options
        As for `from_function`.

    Raises
    ------
    InputError
        As `from_function`; for another backend, or a model whose last layer is a softmax or a sigmoid: its
        gradients vanish where it is sure, which looks like robustness.
    """
    import keras

    if keras.backend.backend() != "jax":
        raise InputError(
            f"Keras runs on {keras.backend.backend()!r}; set KERAS_BACKEND=jax before importing it"
        )
    last = getattr(model.layers[-1], "activation", None) if getattr(model, "layers", None) else None
    name = getattr(
        last, "__name__", type(model.layers[-1]).__name__ if getattr(model, "layers", None) else ""
    )
    if str(name).lower() in ("softmax", "sigmoid"):
        raise InputError(
            f"the last layer of this Keras model is a {name}: it returns probabilities, and srdef needs "
            "logits; "
            "build it with classifier_activation=None, or set model.layers[-1].activation = None"
        )
    variables = (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
    )
    evaluated = tuple(x for x in evaluation_options(model.call) if x[0] == "training")
    return from_function(_Keras(model, evaluated, _keras_layers(model)), variables, bounds=bounds, **options)


Framework = Literal["srdef", "nnx", "linen", "equinox", "keras", "torch", "function"]


def framework_of(model: Any) -> Framework | None:
    """Which framework a model comes from, without importing any; None for what is no model."""
    names = {base.__module__.split(".")[0] + "." + base.__name__ for base in type(model).__mro__}
    if isinstance(model, nnx.Module):
        return "srdef" if hasattr(model, "num_classes") else "nnx"
    if isinstance(model, Wrapped):
        return "srdef"
    if "torch.Module" in names:
        return "torch"
    if any(base.__module__.startswith("flax.linen") for base in type(model).__mro__):
        return "linen"
    if "equinox.Module" in names:
        return "equinox"
    if names & {"keras.Model", "keras.Sequential", "keras.Functional"}:
        return "keras"
    if not callable(model) or inspect.isclass(model):
        return None
    if jax.tree_util.all_leaves([model]):  # no pytree, so a constant of every program, as functions are
        return "function"
    return "srdef" if hasattr(model, "num_classes") else None


def as_classifier(model: Any) -> Any:
    """Wrap a model of another framework; leave everything else, a leaf that JAX is handling for instance."""
    framework = framework_of(model)
    if framework == "srdef" and isinstance(model, nnx.Module) and evaluation_options(type(model).__call__):
        return wrap(model)
    return wrap(model) if framework not in (None, "srdef") else model


def wrap(model: Any, parameters: Any = None, **options: Any) -> Any:
    """Make a classifier of any model: the `from_*` function for its framework is found by its type.

    Parameters
    ----------
    model
        A `flax.nnx`, `flax.linen`, equinox, Keras or PyTorch model, or a JAX function of images. A classifier
        of srdef is returned as it is.
    parameters : pytree, optional
        The variables of a linen module, the state of an equinox module, the parameters of a function.
    **options
        As for `from_function` (and `from_torch`): `num_classes`, `mean`, `std`, `bounds`, `channels_first`,
        `image_size`.

    Returns
    -------
    Classifier
        Called with images `(N, height, width, channels)` in [0, 1]; has `num_classes`.

    Raises
    ------
    InputError
        For something that is no model, or as the function for its framework.
    """
    if isinstance(model, tuple) and hasattr(model, "init") and hasattr(model, "apply"):
        raise InputError(
            f"{type(model).__name__} holds no parameters: give from_function(model.apply, parameters); of a "
            "haiku model that after hk.without_apply_rng"
        )
    framework = framework_of(model)
    if framework == "srdef":
        evaluated: tuple[tuple[str, bool], ...] = ()
        if isinstance(model, nnx.Module):
            check_evaluation_mode(model)
            evaluated = evaluation_options(type(model).__call__)
        if options or evaluated or parameters is not None:
            return from_function(_Call(evaluated), model, **{"num_classes": model.num_classes, **options})
        return model
    if framework == "torch":
        from srdef.models.torch_bridge import from_torch

        return from_torch(model, **options)
    if framework == "nnx":
        return from_nnx(model, **options)
    if framework == "linen":
        return from_linen(model, parameters, **options)
    if framework == "equinox":
        return from_equinox(model, parameters, **options)
    if framework == "keras":
        return from_keras(model, **options)
    if framework == "function" or (parameters is not None and callable(model)):
        options.setdefault("num_classes", getattr(model, "num_classes", None))
        return from_function(model, parameters, **options)
    raise InputError(
        f"{type(model).__name__} is no model that srdef knows; give a flax.nnx, flax.linen, equinox, Keras "
        "or PyTorch model, or a JAX function of images (srdef.models.from_function); of any other, as "
        "scikit-learn's, the function that gives scores of NumPy images: srdef.models.from_black_box"
    )
