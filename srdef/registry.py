"""Names for things: every model, attack, defense and data set can be made from plain data."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from srdef.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


class Registry:
    """Maps names to the functions that build something.

    Parameters
    ----------
    kind : str
        What is registered, in words ("attack"), for error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._builders: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Register a builder (a function or a class) under `name`, in the place of an earlier one.

        (Running a notebook's cell again registers its builder again.)
        """

        def decorator(builder: F) -> F:
            self._builders[name] = builder
            return builder

        return decorator

    def names(self) -> list[str]:
        """All registered names, in the order of registration."""
        return list(self._builders)

    def builder(self, name: str) -> Callable[..., Any]:
        """The builder registered under `name`; InputError with the list of names otherwise."""
        if name not in self._builders:
            raise InputError(f"unknown {self.kind} {name!r}; choose from: {', '.join(self._builders)}")
        return self._builders[name]

    def takes(self, name: str, option: str) -> bool:
        """Whether the builder `name` has an option."""
        return option in inspect.signature(self.builder(name)).parameters

    def create(self, name: str, **options: Any) -> Any:
        """Build `name` with `options`; InputError names an unknown name or option."""
        builder = self.builder(name)
        try:
            inspect.signature(builder).bind(**options)
        except TypeError as error:
            valid = ", ".join(inspect.signature(builder).parameters) or "none"
            raise InputError(f"{self.kind} {name!r}: {error}; its options are: {valid}") from None
        return builder(**options)
