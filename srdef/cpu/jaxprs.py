"""Looking into traced programs."""

from collections.abc import Iterator
from typing import Any

from jax.extend import core

from srdef.cpu.platforms import way_of


def inner_programs(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """The programs that an equation calls: bodies of loops, branches, functions, by default."""
    inner = []
    if (way := way_of(equation)) is not None:
        inner.append(way.jaxpr)
    for value in equation.params.values():
        # Branches come as a tuple.
        for program in value if isinstance(value, tuple) else (value,):
            if isinstance(program, core.ClosedJaxpr):
                inner.append(program.jaxpr)
            elif isinstance(program, core.Jaxpr):
                inner.append(program)
    return inner


def equations(program: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """The equations of a program and of all programs within it."""
    for equation in program.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from equations(inner)


def shape(variable: Any) -> tuple[int, ...]:
    """The shape of what an equation takes or gives."""
    return variable.aval.shape
