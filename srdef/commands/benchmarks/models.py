"""Classifiers beside Keras and PyTorch: a forward pass, and the gradient with respect to the images.

The gradient also of the two halves of the batch, one after the other in a compiled loop.

Keras runs on its JAX backend and has the same weights as srdef; the PyTorch networks are timm's or, for
EfficientNet-Lite, those of efficientnet-lite-pytorch. Weights are random where none are installed: they
change no time.
"""

import os
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from srdef import cores, models
from srdef.commands.benchmarks import attacks, common
from srdef.commands.benchmarks.common import Run, Settings
from srdef.errors import InputError
from srdef.weights import loading

# srdef's name -> module and class in keras.applications, and timm's name.
NETWORKS: dict[str, tuple[str, str, str]] = {
    "efficientnet_lite0": ("", "", ""),
    "inception_v3": ("inception_v3", "InceptionV3", "inception_v3"),
    "resnet50": ("resnet", "ResNet50", ""),
    "resnet50_torchvision": ("", "", "resnet50"),
    "inception_resnet_v2": ("inception_resnet_v2", "InceptionResNetV2", "inception_resnet_v2"),
}
PASSES = ("forward", "gradient", "gradient in a loop")
BATCH = 8


@jax.jit
def _forward(network: Any, images: jax.Array, cotangent: jax.Array) -> jax.Array:
    return network(images)


@jax.jit
def _gradient(network: Any, images: jax.Array, cotangent: jax.Array) -> jax.Array:
    return jax.grad(lambda images: jnp.sum(network(images) * cotangent))(images)


def in_a_loop(gradient: Any, images: jax.Array, cotangent: jax.Array) -> jax.Array:
    """`gradient` of the two halves of the batch, one after the other, as attacks take it in chunks."""
    halves = [a.reshape(2, len(a) // 2, *a.shape[1:]) for a in (images, cotangent)]
    return jax.lax.map(lambda half: gradient(*half), tuple(halves)).reshape(images.shape)


@jax.jit
def _gradient_in_a_loop(network: Any, images: jax.Array, cotangent: jax.Array) -> jax.Array:
    return in_a_loop(partial(_gradient, network), images, cotangent)


def srdef_runs(network: Any, images: np.ndarray, cotangent: np.ndarray) -> dict[str, Run]:
    """srdef: all passes."""
    functions = dict(zip(PASSES, (_forward, _gradient, _gradient_in_a_loop), strict=True))
    arguments = (jnp.asarray(images), jnp.asarray(cotangent))
    return {name: partial(function, network, *arguments) for name, function in functions.items()}


def keras_network(name: str, network: Any) -> Any:
    """The network of `keras.applications` with the weights of srdef's, for any image size."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    module, application, _ = NETWORKS[name]
    options: dict[str, Any] = {"weights": None, "classifier_activation": None}

    def zeros(self: Any, shape: Any, dtype: Any = None) -> np.ndarray:
        return np.zeros(shape, dtype or "float32")

    # Keras's own random weights take a compilation for each shape, and are replaced anyway.
    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", zeros):
        twin = getattr(getattr(keras.applications, module), application)(
            input_tensor=keras.Input((None, None, 3)), **options
        )
    tensors = loading.flatten(network)
    weights = [w for layer in twin.layers for w in layer.trainable_weights + layer.non_trainable_weights]
    for weight, ours in zip(weights, network.keras_names(), strict=True):
        weight.assign(tensors[ours])
    return twin


def keras_runs(name: str, network: Any, images: np.ndarray, cotangent: np.ndarray) -> dict[str, Run]:
    """Keras on the JAX backend, jitted, with its weights as arguments; its preprocessing included."""
    twin = keras_network(name, network)
    import keras

    preprocess = getattr(keras.applications, NETWORKS[name][0]).preprocess_input

    def logits(trainable: Any, fixed: Any, images: jax.Array) -> jax.Array:
        return twin.stateless_call(trainable, fixed, preprocess(255 * images), training=False)[0]

    def gradient(trainable: Any, fixed: Any, images: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.grad(lambda images: jnp.sum(logits(trainable, fixed, images) * cotangent))(images)

    def loop(trainable: Any, fixed: Any, images: jax.Array, cotangent: jax.Array) -> jax.Array:
        return in_a_loop(partial(gradient, trainable, fixed), images, cotangent)

    weights = [v.value for v in twin.trainable_variables], [v.value for v in twin.non_trainable_variables]
    x, c = jnp.asarray(images), jnp.asarray(cotangent)
    return {
        "forward": partial(jax.jit(logits), *weights, x),
        "gradient": partial(jax.jit(gradient), *weights, x, c),
        "gradient in a loop": partial(jax.jit(loop), *weights, x, c),
    }


def torch_runs(name: str, images: np.ndarray, cotangent: np.ndarray) -> dict[str, Run]:
    """PyTorch in evaluation mode, its tensors in the layout that its convolutions prefer."""
    import torch

    if name.startswith("efficientnet"):
        twin = attacks.torch_network(images.shape[1])
    else:
        from srdef.commands.benchmarks.timm_networks import timm

        twin = timm.create_model(NETWORKS[name][2]).eval()
    torch.set_num_threads(cores.usable())
    twin = twin.to(memory_format=torch.channels_last)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)  # the gradient of the images alone, as in the others
    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # a view: NHWC in memory
    c = torch.from_numpy(cotangent)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return twin(x).numpy()

    def gradient() -> np.ndarray:
        inputs = x.detach().clone(memory_format=torch.channels_last).requires_grad_()
        (result,) = torch.autograd.grad((twin(inputs) * c).sum(), inputs)
        return result.permute(0, 2, 3, 1).numpy()

    return {"forward": forward, "gradient": gradient}


HEADER = ["network", "pass", "library", "seconds", "÷ srdef", "first call", "difference"]


def run(settings: Settings) -> None:
    """Time all networks and report."""
    names = common.chosen(list(NETWORKS), settings.only, "network")
    libraries = common.chosen(["srdef", "keras", "torch"], settings.libraries, "library")
    batch = settings.batch or BATCH
    if batch % 2:
        raise InputError(f"--batch must be even, for the halves of the loop, not {batch}")
    records: list[dict[str, Any]] = []
    for name in names:
        records += measure(name, libraries, settings)
    title = f"Classifiers, {batch} images"
    common.report(title, HEADER, rows(records), records, settings.write)


def measure(name: str, libraries: list[str], settings: Settings) -> list[dict[str, Any]]:
    """One network with all libraries that have it."""
    network = models.create(name, pretrained=name.startswith("efficientnet"))
    side = settings.size or network.image_size
    images = np.resize(
        common.sample_images(side, settings.copies)[0], (settings.batch or BATCH, side, side, 3)
    )
    shape = jax.eval_shape(_forward, network, images, images).shape
    cotangent = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    runs: dict[str, dict[str, Run]] = {}
    if "srdef" in libraries:
        runs["srdef"] = srdef_runs(network, images, cotangent)
    if "keras" in libraries and NETWORKS[name][0]:
        runs["keras"] = keras_runs(name, network, images, cotangent)
    if "torch" in libraries and (NETWORKS[name][2] or name.startswith("efficientnet")):
        runs["torch"] = torch_runs(name, images, cotangent)
    records = []
    for kind in PASSES:
        turns = {library: run[kind] for library, run in runs.items() if kind in run}
        timings = common.take_turns(turns, settings.repeats, f"{name} {kind}")
        ours = np.asarray(timings["srdef"].result) if "srdef" in timings else None
        same_weights = {"keras"} | ({"torch"} if name.startswith("efficientnet") else set())
        for library, timing in timings.items():
            record: dict[str, Any] = {
                "network": name,
                "pass": kind,
                "library": library,
                "side": images.shape[1],
                "seconds": timing.median,
                "all_seconds": timing.seconds,
                "first_call": timing.first_call,
            }
            if ours is not None and library in same_weights:
                difference = np.abs(np.asarray(timing.result) - ours).max() / np.abs(ours).max()
                record["difference"] = float(difference)
            records.append(record)
    return records


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """The table's cells."""
    ours = {(r["network"], r["pass"]): r["seconds"] for r in records if r["library"] == "srdef"}
    return [
        [
            f"{r['network']} at {r['side']}",
            r["pass"],
            r["library"],
            f"{r['seconds']:.3f}",
            f"{r['seconds'] / ours[r['network'], r['pass']]:.2f}" if ours else "",
            f"{r['first_call']:.1f}",
            f"{r['difference']:.0e}" if "difference" in r else "",
        ]
        for r in records
    ]
