"""Fine-tuning with frozen parts: what moves and what stays."""

import numpy as np
import optax
import pytest
from flax import nnx

from srdef import models
from srdef.errors import InputError
from srdef.training import fine_tuning
from srdef.weights import loading


def tuned(name, parts, side):
    """Weights before and after one step of SGD on two images of two classes."""
    network = models.create(name, num_classes=7)
    fine_tuning.replace_classifier(network, 2)
    wanted = fine_tuning.train_only(network, parts)
    optimizer = nnx.Optimizer(network, optax.sgd(0.1), wrt=wanted)
    images = np.random.default_rng(0).random((2, side, side, 3), np.float32)

    @nnx.jit
    def step(network, optimizer, images):
        def loss_of(network):
            return optax.softmax_cross_entropy_with_integer_labels(network(images), np.array([0, 1])).mean()

        loss, gradient = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, wanted))(network)
        optimizer.update(network, gradient)
        return loss

    before = loading.flatten(network)
    assert np.isfinite(step(network, optimizer, images))
    return before, loading.flatten(network)


@pytest.mark.parametrize(
    ("name", "parts", "side"),
    [
        ("efficientnet_lite0", ("head", "head_norm", "classifier"), 33),
        pytest.param("inception_v3", ("mixed.9", "mixed.10", "classifier"), 75, marks=pytest.mark.slow),
        pytest.param("resnet50_torchvision", ("stages.3", "classifier"), 64, marks=pytest.mark.slow),
    ],
)
def test_only_the_named_parts_move(name, parts, side):
    """Weights and running statistics of frozen parts stay bit for bit; all those of trained parts move."""
    before, after = tuned(name, parts, side)
    assert after["classifier.kernel"].shape[-1] == 2
    for key, array in before.items():
        trained = key.startswith(tuple(f"{part}." for part in parts))
        assert np.array_equal(array, after[key]) != trained, key
    assert any(key.endswith("mean") and key.startswith(parts[:2]) for key in before)


def test_parts_that_are_not_there():
    network = nnx.eval_shape(lambda: models.REGISTRY.builder("inception_v3")(rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"InceptionV3 has no part 'mixed\.11' with weights"):
        fine_tuning.train_only(network, ("classifier", "mixed.11"))
    fine_tuning.train_only(network, ("mixed.1",))
    modes = {
        path: m.use_running_average for path, m in nnx.iter_modules(network) if isinstance(m, nnx.BatchNorm)
    }
    assert not any(mode for path, mode in modes.items() if path[:2] == ("mixed", 1))
    assert all(mode for path, mode in modes.items() if path[:2] != ("mixed", 1))  # mixed.10 too
    assert len(modes) == 94


def test_a_network_without_a_dense_last_layer():
    network = nnx.eval_shape(lambda: models.REGISTRY.builder("squeezenet")(rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="SqueezeNet has no dense last layer"):
        fine_tuning.replace_classifier(network, 2)
    network = nnx.eval_shape(lambda: models.REGISTRY.builder("resnet50")(rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="at least 1, not 0"):
        fine_tuning.replace_classifier(network, 0)
