"""Rounding, and the gradients that an adaptive attack may give it."""

from typing import Literal

import jax
import jax.numpy as jnp

from srdef.errors import InputError

Gradient = Literal["zero", "straight_through", "soft"]


def straight_through(x: jax.Array, rounded: jax.Array) -> jax.Array:
    """The value of `rounded` with the gradient of `x`."""
    return x + jax.lax.stop_gradient(rounded - x)


def round_half_away(x: jax.Array) -> jax.Array:
    """Round to the nearest integer, halves away from zero, as C's integer quantisers do."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def soft_round(x: jax.Array) -> jax.Array:
    """round(x) + (x - round(x))^3 (Shin and Song 2017): near rounding, with a slope almost everywhere."""
    nearest = jax.lax.stop_gradient(jnp.round(x))
    return nearest + (x - nearest) ** 3


def check_gradient(owner: str, gradient: str, choices: tuple[str, ...]) -> None:
    """InputError unless `gradient` is one of `choices`."""
    if gradient not in choices:
        raise InputError(f"{owner}: unknown gradient {gradient!r}; choose from: {', '.join(choices)}")
