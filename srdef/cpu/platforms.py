"""Functions that are computed in one way on some platforms and in another elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from srdef.programs import jit

# Linear in each of the two.
Way = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Ways:
    """The ways of computing one function of two arrays that is linear in each.

    The same functions should be given again for the same computation, not new ones that do the same: they
    are told apart by identity, and what is equal is lowered once.

    Parameters
    ----------
    default : callable
        Everywhere else.
    cpu, gpu : callable, optional
        On these platforms.
    """

    default: Way
    cpu: Way | None = None
    gpu: Way | None = None

    def each(self, change: Callable[[Way], Way]) -> "Ways":
        """The ways of another function, which `change` makes of each."""
        return Ways(change(self.default), self.cpu and change(self.cpu), self.gpu and change(self.gpu))


def by_platform(ways: Ways, x: jax.Array, y: jax.Array) -> jax.Array:
    """A function of two arrays, linear in each, in the way of the platform that the program is compiled for.

    The same as `jax.lax.platform_dependent`, which traces, batches and differentiates the ways of all
    platforms, for each convolution of a network. This is one operation in a traced program, and only the way
    that is needed is traced, when the program is lowered: the first attack of a process on an EfficientNet
    spends half the time before its compilation. It can be differentiated as often as wanted.

    Parameters
    ----------
    ways : Ways
    x, y : array
    """
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return _by_platform.bind(x, y, ways=ways, precision=precision)


def way_of(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """What an equation of a traced program computes by default, if it is such a function."""
    if equation.primitive is not _by_platform:
        return None
    ways, precision = equation.params["ways"], equation.params["precision"]
    return _traced(ways.default, precision, *(variable.aval for variable in equation.invars))


_by_platform = core.Primitive("by_platform")


@lru_cache(1024)
def _traced(way: Way, precision: str | None, *abstract: Any) -> core.ClosedJaxpr:
    with jax.default_matmul_precision(precision):
        return jax.make_jaxpr(way)(*abstract)


@_by_platform.def_abstract_eval
def _(x: Any, y: Any, *, ways: Ways, precision: str | None) -> Any:
    return _traced(ways.default, precision, x, y).out_avals[0]


@dataclass(frozen=True)
class _Batched:
    way: Way
    axes: tuple[int | None, ...]

    def __call__(self, *operands: jax.Array) -> jax.Array:
        return jax.vmap(self.way, self.axes)(*operands)


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, ways: Ways, precision: str | None
) -> tuple[jax.Array, int]:
    batched = ways.each(lambda way: _Batched(way, tuple(axes)))
    return _by_platform.bind(*operands, ways=batched, precision=precision), 0


batching.primitive_batchers[_by_platform] = _batch


@dataclass(frozen=True)
class _Transposed:
    """The cotangent of one of two arrays, given the result's and the other array."""

    way: Way
    position: int
    shape: tuple[int, ...]
    dtype: Any

    def __call__(self, cotangent: jax.Array, other: jax.Array) -> jax.Array:
        def linear(operand: jax.Array) -> jax.Array:
            return self.way(*((operand, other) if self.position == 0 else (other, operand)))

        return jax.linear_transpose(linear, jax.ShapeDtypeStruct(self.shape, self.dtype))(cotangent)[0]


def _transposed(
    position: int, operand: Any, cotangent: jax.Array, other: jax.Array, ways: Ways, precision: str | None
) -> jax.Array:
    shape, dtype = operand.aval.shape, operand.aval.dtype
    transposed = ways.each(lambda way: _Transposed(way, position, shape, dtype))
    return _by_platform.bind(cotangent, other, ways=transposed, precision=precision)


ad.defbilinear(
    _by_platform,
    lambda cotangent, x, y, **how: _transposed(0, x, cotangent, y, **how),
    lambda cotangent, x, y, **how: _transposed(1, y, cotangent, x, **how),
)


@partial(jit, static_argnames=("way", "precision"))
def _compute(x: jax.Array, y: jax.Array, way: Way, precision: str | None) -> jax.Array:
    """Jitted, as JAX keeps the trace then for all programs."""
    # A program is lowered when the precision that it was traced with is gone.
    with jax.default_matmul_precision(precision):
        return way(x, y)


def _on(platform: str, x: jax.Array, y: jax.Array, ways: Ways, precision: str | None) -> jax.Array:
    return _compute(x, y, {"cpu": ways.cpu, "gpu": ways.gpu}.get(platform) or ways.default, precision)


@_by_platform.def_impl
def _(x: jax.Array, y: jax.Array, **how: Any) -> jax.Array:
    (platform, *_) = {device.platform for device in jnp.asarray(x).devices()}
    return _on(platform, x, y, **how)


for _name, _platform in ((None, "default"), ("cpu", "cpu"), ("cuda", "gpu"), ("rocm", "gpu")):
    _rule = mlir.lower_fun(partial(_on, _platform), multiple_results=False)
    mlir.register_lowering(_by_platform, _rule, platform=_name)
