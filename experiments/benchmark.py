"""Time srdef's attacks beside those of the libraries people use, on the same network and images.

    python -m experiments.benchmark attacks

All libraries attack EfficientNet-Lite0 with its published weights on the sample photographs that
it gets right: srdef and foolbox in JAX, torchattacks and ART in PyTorch. They take turns, so that
whatever else the machine does weighs on all of them; medians and their ratios are reported. The
floor of an attack is the number of gradients its images need, at the pace of one jitted
value-and-gradient of the whole batch. The first call of each, with its compilation, is reported
apart. The other libraries come from requirements-parity.txt.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.table import Table

from experiments import cli
from srdef import attacks, datasets, models
from srdef.attacks import batch
from srdef.attacks.gradient_sign import cross_entropy
from srdef.errors import InputError
from srdef.images import from_uint8, to_uint8
from srdef.victims import Undefended
from srdef.weights import catalog

SIZE = flags.DEFINE_integer("size", 160, "Side of the images.")
COPIES = flags.DEFINE_integer("copies", 1, "How often the images are repeated in the batch.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each attack and library.")
ONLY = flags.DEFINE_list("only", [], "Attacks to time; default: all.")
LIBRARIES = flags.DEFINE_list("libraries", ["srdef", "foolbox", "torchattacks", "art"], "Libraries to time.")
WRITE = flags.DEFINE_string("write", None, "File to write the table to, as Markdown; JSON beside it.")

EPSILON = 16 / 255
SEARCHES, STEPS = 3, 60  # of C&W

# Name of the attack -> srdef's attack, and each library's name for it.
ATTACKS: dict[str, Any] = {
    "I-FGSM": lambda: attacks.ifgsm(EPSILON, steps=10),
    "MI-FGSM": lambda: attacks.mifgsm(EPSILON, steps=10),
    "DI2-FGSM": lambda: attacks.di2fgsm(EPSILON, steps=10, step_size=EPSILON / 10),
    "PGD": lambda: attacks.pgd(EPSILON, steps=10, step_size=EPSILON / 4),
    "DeepFool": lambda: attacks.deepfool(),
    "C&W": lambda: attacks.carlini_wagner(search_steps=SEARCHES, steps=STEPS),
}

Run = Callable[[], np.ndarray]


def photographs(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sample images that the classifier gets right, on the 8-bit grid, and their labels."""
    samples = datasets.load("imagenet_samples", size=SIZE.value)
    images = from_uint8(to_uint8(samples.images))
    right = np.asarray(_predict(classifier, images)) == samples.labels
    return np.repeat(images[right], COPIES.value, 0), np.repeat(samples.labels[right], COPIES.value, 0)


@jax.jit
def _predict(classifier: Any, images: jax.Array) -> jax.Array:
    return classifier(images).argmax(axis=-1)


@jax.jit
def _value_and_gradient(classifier: Any, images: jax.Array, labels: jax.Array) -> Any:
    def loss(images: jax.Array) -> jax.Array:
        return jax.vmap(cross_entropy)(classifier(images), labels).sum()

    return jax.value_and_grad(loss)(images)


@contextlib.contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Collect, for each step that `perturb` makes, how many images still needed it."""
    counts: list[int] = []
    step = batch._step

    def counting(attack: Any, victim: Any, state: Any, **options: Any) -> Any:
        running = ~jax.vmap(lambda attack, state: attack.finished(state))(attack, state)
        counts.append(int(running.sum()))
        return step(attack, victim, state, **options)

    batch._step = counting  # type: ignore[assignment]
    try:
        yield counts
    finally:
        batch._step = step


def srdef_runs(classifier: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """srdef: every attack."""
    victim = Undefended(classifier)

    def run(attack: Any) -> np.ndarray:
        return attacks.perturb(attack, victim, images, labels, key=jax.random.key(0)).images

    return {name: partial(run, make()) for name, make in ATTACKS.items()}


def foolbox_runs(classifier: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """foolbox, through its JAX model on the jitted classifier."""
    import foolbox

    logits = jax.jit(lambda classifier, images: classifier(images))
    model = foolbox.JAXModel(
        lambda images: logits(classifier, images), bounds=(0, 1), data_format="channels_last"
    )
    inputs, classes = jnp.asarray(images), jnp.asarray(labels)

    def run(attack: Any, epsilon: float | None) -> np.ndarray:
        return np.asarray(attack(model, inputs, classes, epsilons=epsilon)[1])

    zoo = foolbox.attacks
    cw = zoo.L2CarliniWagnerAttack(SEARCHES, STEPS, stepsize=5e-3, initial_const=1e-2)
    basic = zoo.LinfBasicIterativeAttack(abs_stepsize=EPSILON / 10, steps=10)
    # It accumulates the sign of the gradient instead of the gradient.
    momentum = zoo.LinfMomentumIterativeFastGradientMethod(abs_stepsize=EPSILON / 10, steps=10, momentum=1.0)
    pgd = zoo.LinfPGD(abs_stepsize=EPSILON / 4, steps=10)
    deepfool = zoo.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    return {
        "I-FGSM": lambda: run(basic, EPSILON),
        "MI-FGSM": lambda: run(momentum, EPSILON),
        "PGD": lambda: run(pgd, EPSILON),
        "DeepFool": lambda: run(deepfool, None),
        "C&W": lambda: run(cw, None),
    }


def torch_network() -> Any:
    """The PyTorch reference implementation with the same weights, in evaluation mode."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE.value)
    entry = catalog.entry("efficientnet_lite0")
    assert isinstance(entry, catalog.Entry)
    weights = torch.load(catalog.locate(entry), weights_only=True)
    network.load_state_dict(weights, strict=True)

    class Scaled(torch.nn.Module):
        """Takes [0, 1], as srdef's network does."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            return self.network((images * 255 - 127) / 128)

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return Scaled().eval()


def torchattacks_runs(network: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """torchattacks; its DeepFool tries all 1000 classes one image at a time and is left out."""
    import torch
    import torchattacks

    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    classes = torch.from_numpy(labels.astype(np.int64))

    def run(attack: Any) -> np.ndarray:
        return attack(inputs, classes).numpy().transpose(0, 2, 3, 1)

    return {
        "I-FGSM": lambda: run(torchattacks.BIM(network, EPSILON, EPSILON / 10, 10)),
        "MI-FGSM": lambda: run(torchattacks.MIFGSM(network, EPSILON, EPSILON / 10, 10, 1.0)),
        "DI2-FGSM": lambda: run(torchattacks.DIFGSM(network, EPSILON, EPSILON / 10, 10)),
        "PGD": lambda: run(torchattacks.PGD(network, EPSILON, EPSILON / 4, 10)),
        # It has no search over c; the same number of gradients with its default c.
        "C&W": lambda: run(torchattacks.CW(network, c=1, steps=SEARCHES * STEPS, lr=5e-3)),
    }


def art_runs(network: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """ART; its DeepFool takes many minutes for a few images and is left out."""
    import torch
    from art.attacks.evasion import (
        BasicIterativeMethod,
        CarliniL2Method,
        MomentumIterativeMethod,
        ProjectedGradientDescent,
    )
    from art.estimators.classification import PyTorchClassifier

    shape = (3, *images.shape[1:3])
    model = PyTorchClassifier(
        network, torch.nn.CrossEntropyLoss(), shape, 1000, clip_values=(0, 1), device_type="cpu"
    )
    inputs = images.transpose(0, 3, 1, 2).copy()

    def run(attack: Any) -> np.ndarray:
        return attack.generate(inputs, labels).transpose(0, 2, 3, 1)

    common: dict[str, Any] = {"batch_size": len(images), "verbose": False}
    fixed: dict[str, Any] = common | {"max_iter": 10}
    return {
        "I-FGSM": lambda: run(BasicIterativeMethod(model, EPSILON, EPSILON / 10, **fixed)),
        "MI-FGSM": lambda: run(
            MomentumIterativeMethod(model, eps=EPSILON, eps_step=EPSILON / 10, decay=1.0, **fixed)
        ),
        "PGD": lambda: run(
            ProjectedGradientDescent(model, eps=EPSILON, eps_step=EPSILON / 4, num_random_init=1, **fixed)
        ),
        "C&W": lambda: run(
            CarliniL2Method(
                model,
                learning_rate=5e-3,
                binary_search_steps=SEARCHES,
                max_iter=STEPS,
                initial_const=1e-2,
                **common,
            )
        ),
    }


def timed(run: Run) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def benchmark_attacks() -> list[dict[str, Any]]:
    """Time all attacks; one record for each attack and library."""
    classifier = models.create("efficientnet_lite0", pretrained=True)
    images, labels = photographs(classifier)
    cli.console.print(f"{len(images)} images of {SIZE.value} x {SIZE.value} on {device()}")
    runs: dict[str, dict[str, Run]] = {}
    if "srdef" in LIBRARIES.value:
        runs["srdef"] = srdef_runs(classifier, images, labels)
    if "foolbox" in LIBRARIES.value:
        runs["foolbox"] = foolbox_runs(classifier, images, labels)
    if {"torchattacks", "art"} & set(LIBRARIES.value):
        network = torch_network()
        if "torchattacks" in LIBRARIES.value:
            runs["torchattacks"] = torchattacks_runs(network, images, labels)
        if "art" in LIBRARIES.value:
            runs["art"] = art_runs(network, images, labels)

    def gradient() -> np.ndarray:
        return np.asarray(_value_and_gradient(classifier, images, labels)[1])

    gradient()
    records = []
    for attack in ONLY.value or ATTACKS:
        libraries = [library for library in runs if attack in runs[library]]
        first, needed, results = {}, 0, {}
        for library in libraries:
            if library == "srdef":
                with counted_steps() as counts:
                    first[library], results[library] = timed(runs[library][attack])
                needed = sum(counts)
            else:
                first[library], results[library] = timed(runs[library][attack])
            cli.console.print(f"{attack:9} {library:13} first call {first[library]:.1f} s")
        seconds: dict[str, list[float]] = {library: [] for library in libraries}
        paces = []
        for _ in range(REPEATS.value):
            for library in libraries:
                seconds[library].append(timed(runs[library][attack])[0])
                paces.append(timed(gradient)[0])
        per_step = 9 if attack == "DeepFool" else 1  # gradients: all candidates but the class itself
        floor = needed * per_step * float(np.median(paces)) / len(images)
        for library in libraries:
            attacked = results[library]
            l2 = np.linalg.norm((attacked - images).reshape(len(images), -1), axis=1)
            records.append(
                {
                    "attack": attack,
                    "library": library,
                    "seconds": float(np.median(seconds[library])),
                    "all_seconds": seconds[library],
                    "first_call": first[library],
                    "floor": floor,
                    "gradients_per_image": needed * per_step / len(images),
                    "success": int((np.asarray(_predict(classifier, attacked)) != labels).sum()),
                    "images": len(images),
                    "median_l2": float(np.median(l2)),
                }
            )
            cli.console.print(f"{attack:9} {library:13} {records[-1]['seconds']:.2f} s, floor {floor:.2f} s")
    return records


def device() -> str:
    """What the times were measured on."""
    kind = jax.devices()[0].device_kind
    return f"{kind}, {len(os.sched_getaffinity(0))} cores" if kind == "cpu" else kind


HEADER = ["attack", "library", "seconds", "÷ srdef", "floor ÷ time", "first call", "success", "median L2"]


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """The table's cells."""
    ours = {r["attack"]: r["seconds"] for r in records if r["library"] == "srdef"}
    return [
        [
            r["attack"],
            r["library"],
            f"{r['seconds']:.2f}",
            f"{r['seconds'] / ours[r['attack']]:.2f}" if r["attack"] in ours else "",
            f"{r['floor'] / r['seconds']:.2f}" if r["library"] == "srdef" else "",
            f"{r['first_call']:.1f}",
            f"{r['success']}/{r['images']}",
            f"{r['median_l2']:.4f}",
        ]
        for r in records
    ]


def main(arguments: list[str]) -> None:
    if arguments[1:] != ["attacks"]:
        raise InputError("say what to benchmark: attacks")
    unknown = [name for name in ONLY.value if name not in ATTACKS]
    if unknown:
        raise InputError(f"unknown attack {unknown[0]!r}; choose from: {', '.join(ATTACKS)}")
    records = benchmark_attacks()
    table = Table(*HEADER)
    for row in rows(records):
        table.add_row(*row)
    cli.console.print(table)
    if WRITE.value:
        path = Path(WRITE.value)
        lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
        lines += ["| " + " | ".join(row) + " |" for row in rows(records)]
        path.write_text(f"{records[0]['images']} images, {device()}\n\n" + "\n".join(lines) + "\n")
        path.with_suffix(".json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    app.run(cli.guarded(main), flags_parser=cli.parse)
