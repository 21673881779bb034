"""Names for things: every model, attack, defense and data set can be made from plain data.

A name is registered, or `package.module:function`, or `file.py:function`, which is imported.
"""

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

from srdef.errors import InputError
from srdef.own_code import by_name

F = TypeVar("F", bound=Callable[..., Any])

# What options of foolbox, torchattacks, ART and AutoAttack are called here: the first that a builder has.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("eps", "epsilon", "epsilons"), ("epsilon", "step_size")),
    **dict.fromkeys(("alpha", "eps_step", "eps_iter", "abs_stepsize", "stepsize"), ("step_size",)),
    **dict.fromkeys(("steps", "max_iter", "nb_iter", "n_iter", "num_steps", "iters"), ("steps", "queries")),
    **dict.fromkeys(("n_restarts", "num_random_init"), ("restarts",)),
    **{"n_queries": ("queries",), "decay": ("momentum",), "kappa": ("confidence",), "lr": ("learning_rate",)},
    **{"delta": ("radius",), "nb_sample": ("samples",)},
}


class Registry:
    """Maps names to the functions that build something.

    Parameters
    ----------
    kind : str
        What is registered, in words ("attack"), for error messages.
    aliases : mapping, optional
        Other names: for each the registered one and the options that it stands for. Capitals, hyphens and
        underscores do not matter in a registry that has some.
    """

    def __init__(self, kind: str, aliases: Mapping[str, tuple[str, dict[str, Any]]] | None = None) -> None:
        self.kind = kind
        self._aliases = aliases or {}
        self._builders: dict[str, Callable[..., Any]] = {}
        # What srdef itself has registered, so that a result under such a name is always the same attack's.
        self._srdefs: set[str] = set()

    def register(self, name: str) -> Callable[[F], F]:
        """Register a builder (a function or a class) under `name`, in the place of an earlier one of yours.

        (Running a notebook's cell again registers its builder again.) Calls of a function with an option that
        it does not have are an InputError with those there are.

        Raises
        ------
        InputError
            For a name that is srdef's own, or an alias or another spelling of one.
        """
        # A module may register what another one defines.
        caller = sys._getframe(1).f_globals.get("__name__", "__main__")
        if caller.split(".")[0] == "srdef":
            self._srdefs.add(name)
        elif (meant := self.resolve(name)[0]) in self._srdefs:
            own = "srdef's own" if meant == name else f"another name of srdef's own {meant!r}"
            raise InputError(f"{self.kind} {name!r} is {own}; choose another name for yours, as 'my_{name}'")

        def decorator(builder: F) -> F:
            if inspect.isfunction(builder):
                builder = _naming_options(f"{self.kind} {name!r}", builder)
            self._builders[name] = builder
            for module in (getattr(builder, "__module__", None) or "__main__", caller):
                by_name.note(module)
            return builder

        return decorator

    def names(self) -> list[str]:
        """All registered names, in the order of registration."""
        return list(self._builders)

    def resolve(self, name: str) -> tuple[str, dict[str, Any]]:
        """The registered name that `name` is or stands for, and the options that go with it.

        A name that stands for nothing is returned as it is.
        """
        if not self._aliases or not isinstance(name, str) or name in self._builders or ":" in name:
            return name, {}
        known = {_plain(alias): found for alias, found in self._aliases.items()}
        known |= {_plain(own): (own, {}) for own in self._builders}
        return known.get(_plain(name), (name, {}))

    def builder(self, name: str) -> Callable[..., Any]:
        """What is registered under `name`, or what a name with a colon leads to.

        Parameters
        ----------
        name : str
            A registered name, or an alias, whose options only `create` knows; or `package.module:function` or
            `file.py:function`, which is imported from the current folder, that of the configuration, or what
            is installed.

        Raises
        ------
        InputError
            For an unknown name, with the list of names and the nearest one; for a module that is missing or
            fails, or a function that is missing.
        """
        if not isinstance(name, str):
            raise InputError(f"the name of the {self.kind} must be a string, not {name!r:.80}")
        name, _ = self.resolve(name)
        if name in self._builders:
            return self._builders[name]
        if ":" in name:
            return by_name.builder(self.kind, name)
        short = name if len(name) <= 60 else f"{name[:57]}..."
        near = difflib.get_close_matches(short.lower(), [*self._builders, *self._aliases], n=1)
        raise InputError(
            f"unknown {self.kind} {short!r}; choose from: {', '.join(self._builders)}, or give "
            f"MODULE:FUNCTION of your own{f'; did you mean {near[0]}?' if near else ''}"
        )

    def takes(self, name: str, option: str) -> bool:
        """Whether the builder `name` has an option."""
        return option in inspect.signature(self.builder(name)).parameters

    def create(self, name: str, **options: Any) -> Any:
        """Build `name` with `options`; InputError names an unknown name or option."""
        name, given = self.resolve(name)
        options = given | options
        builder = self.builder(name)
        check_options(f"{self.kind} {name!r}", builder, options)
        built = builder(**options)
        if built is None:
            raise InputError(f"{self.kind} {name!r}: the function returned nothing")
        return built


def _plain(name: str) -> str:
    """A name without what is written in several ways."""
    return "".join(filter(str.isalnum, name.lower()))


def check_options(where: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """InputError, which begins with `where` and lists the valid options, unless `builder` takes `options`."""
    try:
        signature = inspect.signature(builder)
    except ValueError:  # of some functions written in C
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InputError(f"{where}: {error}{_hint(signature, options)}") from None
    _check_flags(where, signature, options)


def _check_flags(where: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    """InputError for what is neither True nor False where a builder says that it takes a `bool`.

    And for True and False where it says that it takes a number, which they would be to Python.
    """
    for option, value in options.items():
        parameter = signature.parameters.get(option)
        if parameter is None:
            continue
        words = set(re.findall(r"\w+", inspect.formatannotation(parameter.annotation)))
        if words == {"bool"} and not isinstance(value, bool | np.bool_):
            raise InputError(f"{where}: {option} must be True or False, not {value!r:.80}")
        if words & {"int", "float"} and "bool" not in words and isinstance(value, bool | np.bool_):
            raise InputError(f"{where}: {option} must be a number, not {value!r}")


def _hint(signature: inspect.Signature, options: Mapping[str, Any]) -> str:
    """The valid options, after what a wrong one is called here."""
    known = signature.parameters
    renamed = [
        f"; {option} is called {here[0]} here"
        for option in options
        if option not in known and (here := [name for name in _ELSEWHERE.get(option, ()) if name in known])
    ]
    return f"{''.join(renamed)}; its options are: {', '.join(known) or 'none'}"


def _naming_options(where: str, builder: F) -> F:
    """The function, with an InputError instead of Python's TypeError for options that it does not have."""
    signature = inspect.signature(builder)
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

    @functools.wraps(builder)
    def named(*arguments: Any, **options: Any) -> Any:
        for option in options:
            if option not in signature.parameters and not anything:
                hint = _hint(signature, options)
                raise InputError(f"{where}: got an unexpected keyword argument {option!r}{hint}")
        _check_flags(where, signature, options)
        return builder(*arguments, **options)

    return cast(F, named)
