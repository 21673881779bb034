"""What all tests of attacks share."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_broadcasting(request):
    """An attack adds no arrays of different ranks: a scalar for each class would become one for each column.

    Networks do (a mean for each channel), so not where a test takes a real one.
    """
    if request.node.get_closest_marker("slow") or "network" in request.fixturenames:
        yield
        return
    with jax.numpy_rank_promotion("raise"):
        yield
