"""AutoAttack and its parts beside torchattacks on a network of the size that CIFAR-10 is attacked with.

There a gradient takes milliseconds, so that what stands around it counts: the loop over the steps, rounding,
judging, compilation. The network is random (26,000 parameters; the labels are its predictions), which makes
no difference to the time of a step; its images are pieces of the sample images, 32 pixels wide.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from srdef import attacks, cores
from srdef.attacks.autoattack import ensemble
from srdef.commands import cli
from srdef.commands.benchmarks import common
from srdef.commands.benchmarks.common import Run, Settings
from srdef.victims import Undefended

SIDE, CLASSES = 32, 10
PIECES = 5  # of each sample image
EPSILON = 0.5 / 255  # at which a part of the images is fooled
STEPS, QUERIES = 100, 1000


def autoattack(steps: int) -> Any:
    """AutoAttack, whose attacks with gradients take so many steps in each run."""
    members = {
        name: member.replace(steps=steps) if hasattr(member, "steps") else member  # type: ignore[attr-defined]
        for name, member in ensemble("standard", EPSILON).items()
    }
    return attacks.autoattack(EPSILON, attacks=members)


ATTACKS: dict[str, Any] = {
    "PGD": lambda: attacks.pgd(EPSILON, steps=STEPS, step_size=EPSILON / 4, random_start=False),
    "APGD": lambda: attacks.apgd(EPSILON, steps=STEPS),
    "APGD-T": lambda: attacks.apgd_t(EPSILON, steps=STEPS, targets=CLASSES - 1),
    "FAB-T": lambda: attacks.fab_t(steps=STEPS, targets=CLASSES - 1, start_radius=EPSILON),
    "Square": lambda: attacks.square(EPSILON, queries=QUERIES),
    "AutoAttack": lambda: autoattack(STEPS),
    "AutoAttack-10": lambda: autoattack(10),
}
HEADER = ["attack", "library", "seconds", "÷ srdef", "first call", "success"]


class SmallNetwork(nnx.Module):
    """Two convolutions and a dense layer, as in many tutorials."""

    num_classes = CLASSES

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(32 * (SIDE // 4) ** 2, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.second(nnx.relu(self.first(images))))
        return self.head(hidden.reshape(len(images), -1))


def torch_twin(network: SmallNetwork) -> Any:
    """The same network in PyTorch; images `(N, 3, 32, 32)`."""
    import torch
    from torch.nn import functional

    kernels = [np.asarray(layer.kernel[...]) for layer in (network.first, network.second)]
    biases = [
        np.asarray(layer.bias[...])  # type: ignore[index]
        for layer in (network.first, network.second, network.head)
    ]

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernels = torch.nn.ParameterList([torch.tensor(k.transpose(3, 2, 0, 1)) for k in kernels])
            self.biases = torch.nn.ParameterList([torch.tensor(b) for b in biases])
            self.dense = torch.nn.Parameter(torch.tensor(np.asarray(network.head.kernel[...]).T))

        def forward(self, images: Any) -> Any:
            for kernel, bias in zip(self.kernels, self.biases, strict=False):
                # "SAME" with a stride of 2 pads an even side at its end.
                padded = functional.pad(images, (0, 1, 0, 1))
                images = functional.conv2d(padded, kernel, bias, stride=2).relu()
            return functional.linear(images.permute(0, 2, 3, 1).flatten(1), self.dense, self.biases[2])

    return Twin().eval()


def torch_autoattack(network: Any, steps: int) -> Any:
    """AutoAttack of torchattacks with so many steps, and with the sizes of squares that AutoAttack has.

    As it comes, APGD, APGD-T and FAB-T take 10 steps there, and 100 in AutoAttack.
    """
    import torchattacks

    attack = torchattacks.AutoAttack(network, eps=EPSILON, n_classes=CLASSES)
    for member in attack._autoattack.attacks:
        if isinstance(member, torchattacks.Square):
            member.rescale_schedule = False
        else:
            member.steps = steps
    return attack


def torch_runs(network: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """torchattacks: each attack's adversarial images."""
    import torch
    import torchattacks

    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    classes = torch.from_numpy(labels.astype(np.int64))

    def run(attack: Any) -> np.ndarray:
        return attack(inputs, classes).detach().numpy().transpose(0, 2, 3, 1)

    zoo = torchattacks
    return {
        "PGD": lambda: run(zoo.PGD(network, EPSILON, EPSILON / 4, STEPS, random_start=False)),
        "APGD": lambda: run(zoo.APGD(network, eps=EPSILON, steps=STEPS)),
        "APGD-T": lambda: run(zoo.APGDT(network, eps=EPSILON, steps=STEPS, n_classes=CLASSES)),
        "FAB-T": lambda: run(
            zoo.FAB(network, eps=EPSILON, steps=STEPS, multi_targeted=True, n_classes=CLASSES)
        ),
        "Square": lambda: run(zoo.Square(network, eps=EPSILON, n_queries=QUERIES, resc_schedule=False)),
        "AutoAttack": lambda: run(torch_autoattack(network, STEPS)),
        "AutoAttack-10": lambda: run(torch_autoattack(network, 10)),
    }


def small_images(copies: int) -> np.ndarray:
    """Pieces of the sample images, `(100 * copies, 32, 32, 3)`."""
    samples, _ = common.sample_images(160, 1)
    corners = np.random.default_rng(0).integers(0, 160 - SIDE, (len(samples), PIECES, 2))
    pieces = [
        image[top : top + SIDE, left : left + SIDE]
        for image, places in zip(samples, corners, strict=True)
        for top, left in places
    ]
    return np.concatenate([np.stack(pieces)] * copies)


def run(settings: Settings) -> None:
    """Time all attacks and report."""
    names = common.chosen(list(ATTACKS), settings.only, "attack")
    libraries = common.chosen(["srdef", "torchattacks"], settings.libraries, "library")
    network, images = SmallNetwork(nnx.Rngs(0)), small_images(settings.copies)
    predict = jax.jit(lambda images: network(images).argmax(axis=-1))
    labels = np.asarray(predict(images))
    victim = Undefended(network)
    cli.console.print(f"{len(images)} images of {SIDE} x {SIDE} on {common.device()}")

    def attack(made: Any) -> Any:
        return attacks.perturb(made, victim, images, labels, key=jax.random.key(0))

    runs: dict[str, dict[str, Run]] = {"srdef": {name: partial(attack, ATTACKS[name]()) for name in names}}
    if "torchattacks" in libraries:
        import torch

        torch.set_num_threads(cores.usable())
        runs["torchattacks"] = torch_runs(torch_twin(network), images, labels)
    records = []
    for name in names:
        timings = common.take_turns(
            {library: runs[library][name] for library in libraries}, settings.repeats, name
        )
        for library, timing in timings.items():
            found = timing.result.images if library == "srdef" else timing.result
            within = np.abs(found - images).max(axis=(1, 2, 3)) <= EPSILON * (1 + 1e-4)
            records.append(
                {
                    "attack": name,
                    "library": library,
                    "seconds": timing.median,
                    "all_seconds": timing.seconds,
                    "first_call": timing.first_call,
                    "success": int(((np.asarray(predict(found)) != labels) & within).sum()),
                    "images": len(images),
                }
            )
    title = f"Attacks, {len(images)} images of {SIDE} pixels, a network of CIFAR-10's size"
    common.report(title, HEADER, rows(records), records, settings.write)


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """The table's cells."""
    ours = {r["attack"]: r["seconds"] for r in records if r["library"] == "srdef"}
    return [
        [
            *(r["attack"], r["library"], f"{r['seconds']:.2f}"),
            f"{r['seconds'] / ours[r['attack']]:.2f}" if r["attack"] in ours else "",
            *(f"{r['first_call']:.1f}", f"{r['success']}/{r['images']}"),
        ]
        for r in records
    ]
