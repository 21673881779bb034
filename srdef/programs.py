"""`jax.jit` that tells pytrees of different classes apart.

Since version 0.10 jaxlib calls the structures of two dataclasses equal if they have as many fields and the
same static values, whatever their classes are: `jax.tree.structure(A(1.0)) == jax.tree.structure(B(1.0))`.
Their hashes differ, but its tables of programs look at a few bits of a hash only, so that some classes get
the program of another one, and its numbers, without a word. Attacks, defenses and victims are dataclasses,
also those of users, and those of a cell of a notebook that was run again. Nor does JAX tell static values of
a pytree apart that Python calls equal, as 1, 1.0 and True, whose programs differ.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

# What JAX raises for a program that has failed while it ran; of a call back now this, now that.
FAILED = (jax.errors.JaxRuntimeError, ValueError)
_CLASSES = "classes_of_arguments"
_WITHOUT_STATICS = frozenset({bool, int, float, str, type(None), tuple, list, dict, np.ndarray})


class _Tracing(threading.local):
    """How many programs a thread is tracing, one within the other."""

    depth = 0


_tracing = _Tracing()


class jit:
    """A function that is compiled as by `jax.jit`, and again for arguments of other classes or static types.

    Parameters
    ----------
    function : callable
    static_argnames : str or sequence of str, optional
    **options
        Of `jax.jit`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static_argnames: str | Sequence[str] = (),
        **options: Any,
    ) -> None:
        @functools.wraps(function)
        def with_classes(*args: Any, **kwargs: Any) -> Any:
            del kwargs[_CLASSES]
            _tracing.depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                _tracing.depth -= 1

        signature = inspect.signature(function)
        parameters = [*signature.parameters.values()]
        last = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        added = inspect.Parameter(_CLASSES, inspect.Parameter.KEYWORD_ONLY)
        parameters.insert(len(parameters) - last, added)
        with_classes.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
        self._jitted = jax.jit(with_classes, static_argnames=(*names, _CLASSES), **options)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._jitted(*args, **kwargs, **_classes(args, kwargs))
        except FAILED as error:
            raise_own(error)
            raise

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As the method of `jax.jit`: the program for arrays or `jax.ShapeDtypeStruct`."""
        return self._jitted.lower(*args, **kwargs, **_classes(args, kwargs))

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """As the method of `jax.jit`: the shapes of what it returns."""
        return self._jitted.eval_shape(*args, **kwargs, **_classes(args, kwargs))


def _classes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Hashable]:
    """What differs for arguments of other classes, and for static values of other types."""
    found: list[Hashable] = []

    def is_network(value: Any) -> bool:
        """Whether value is a network, which is looked at apart; note the static types of other nodes."""
        if type(value) in _WITHOUT_STATICS:
            return False
        if isinstance(value, nnx.Module):
            # Those of srdef have hundreds of nodes, all of Flax's classes, which JAX compares.
            if not type(value).__module__.startswith("srdef."):
                found.append(hash(jax.tree.structure(value)))
            return True
        if (flattened := jax.tree_util.default_registry.flatten_one_level(value)) is not None:
            found.append(_type(flattened[1]))
        return False

    # A hash has the class of every node in it.
    structure = hash(jax.tree.structure((args, kwargs), is_leaf=is_network))
    return {_CLASSES: (structure, *found)}


def _type(static: Any) -> Any:
    """What tells 1, 1.0 and True apart, and the two zeros: Python calls them equal."""
    if type(static) in (tuple, list):
        return tuple(map(_type, static))
    return (float, str(static)) if type(static) is float else type(static)


def traced_once(network: Any, images: jax.Array) -> jax.Array:
    """`network(images)`, of which the programs of srdef share the trace: a large one takes seconds in each.

    Anywhere else it is a plain call, as that may change the network: a user's training, whose batch
    normalisations keep their statistics. A program is given a copy in any case.

    Parameters
    ----------
    network : callable
        A pytree.
    images : array (N, H, W, C)
    """
    return _call(network, images) if _tracing.depth else network(images)


@jit
def _call(network: Any, images: jax.Array) -> jax.Array:
    return network(images)


_raised: list[Exception] = []  # the last one


def call_back(function: Callable[..., Any], shape: Any, *arguments: jax.Array, vmap_method: str) -> Any:
    """`jax.pure_callback` of a function whose errors `raise_own` knows."""

    @functools.wraps(function)
    def noted(*given: Any) -> Any:
        try:
            return function(*given)
        except Exception as error:
            _raised[:] = [error]
            raise

    return jax.pure_callback(noted, shape, *arguments, vmap_method=vmap_method)


def raise_own(error: Exception) -> None:
    """Raise what a function has raised that the program called back: JAX's error has only the text of it."""
    for raised in _raised:
        if f"{type(raised).__name__}: {raised}".strip(": ") in str(error):
            _raised.clear()  # and all that its traceback holds
            raise raised from None


def may_overlap() -> bool:
    """Whether programs may be compiled while others are compiled or run.

    Not on a GPU: its compiler chooses kernels by timing them on the device, and whatever runs beside them
    spoils the choice. Compiled side by side, a gradient on an H100 took 2.4 times as long as compiled alone.
    """
    return jax.local_devices()[0].platform != "gpu"
