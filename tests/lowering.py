"""Lowering of programs for accelerators that are not there."""

import jax
from jax import export

PLATFORMS = ("cuda", "tpu")


def lower_for_accelerators(function, *arguments):
    """Trace and lower a function for CUDA and TPU; nothing is computed.

    It shows that no operation, and no choice of one by platform, is for a CPU alone. The last argument is a
    key, which an exported program takes as its data.
    """
    *arguments, key = arguments
    program = jax.jit(lambda *args: function(*args[:-1], jax.random.wrap_key_data(args[-1])))
    exported = export.export(program, platforms=PLATFORMS)(*arguments, jax.random.key_data(key))
    assert exported.platforms == PLATFORMS
    return exported
