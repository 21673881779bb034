"""What a network costs: its parameters, and the multiply-accumulates of one forward pass."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from srdef.cpu.jaxprs import inner_programs, shape


def parameter_count(network: Any) -> int:
    """Number of trained parameters; running statistics are none."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def multiply_accumulates(network: Any, height: int, width: int) -> int:
    """Exact number of multiply-accumulates in the convolutions and dense layers, for one image.

    Counted from the shapes in the traced program, so nothing is computed and `network` may be abstract
    (`nnx.eval_shape`). Element-wise work and pooling are not counted, as in the literature.

    Parameters
    ----------
    network : nnx.Module
        Takes images `(N, H, W, 3)`.
    height, width : int
        Of the image.
    """
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda network, image: network(image))(network, image)
    return _count(traced.jaxpr)


def _count(program: core.Jaxpr) -> int:
    total = 0
    for equation in program.eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            kernel = shape(equation.invars[1])
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(shape(equation.outvars[0])) * math.prod(kernel) // outputs
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = shape(equation.invars[0])
            total += math.prod(shape(equation.outvars[0])) * math.prod(left[i] for i in contracted)
        elif name == "cond":
            total += max(_count(branch) for branch in inner_programs(equation))
        else:
            total += sum(_count(inner) for inner in inner_programs(equation))
    return total
