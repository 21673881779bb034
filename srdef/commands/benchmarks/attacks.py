"""Attacks beside foolbox, torchattacks and ART on EfficientNet-Lite0 with its published weights.

srdef and foolbox run in JAX, torchattacks and ART in PyTorch, on the sample photographs that the
network gets right. The floor of an attack is the number of gradients its images need, at the pace
of one jitted value-and-gradient of the whole batch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef import attacks, cores, models
from srdef.attacks.losses import cross_entropy
from srdef.commands import cli
from srdef.commands.benchmarks import common
from srdef.commands.benchmarks.common import Run, Settings
from srdef.victims import Undefended
from srdef.weights import catalog

EPSILON = 16 / 255
SEARCHES, STEPS = 3, 20  # of C&W
# For the parts of AutoAttack: radii at which some images stand, fewer steps and queries than its own.
SMALL, LARGER = 0.25 / 255, 3 / 255
FEW, TARGETS, QUERIES = 20, 3, 200
HOPS, FIRST_QUERIES, CLIMBS, DIRECTIONS = 5, 50, 5, 16  # of HopSkipJump and SPSA
IN_A_ROW = 10  # gradients of the floor, as many as attacks take: the first after another program is slower
NEAREST = 20  # steps of DDN and FMN
# Of those made to transfer: iterations, and gradients of copies or neighbours in each.
ITERATIONS, NEARBY = 5, 5

# Name of the attack -> srdef's attack, and each library's name for it.
ATTACKS: dict[str, Any] = {
    "I-FGSM": lambda: attacks.ifgsm(EPSILON, steps=10),
    "MI-FGSM": lambda: attacks.mifgsm(EPSILON, steps=10),
    "DI2-FGSM": lambda: attacks.di2fgsm(EPSILON, steps=10, step_size=EPSILON / 10),
    "PGD": lambda: attacks.pgd(EPSILON, steps=10, step_size=EPSILON / 4),
    "SI-NI-FGSM": lambda: attacks.sinifgsm(EPSILON, steps=ITERATIONS, copies=NEARBY),
    "VMI-FGSM": lambda: attacks.vmifgsm(EPSILON, steps=ITERATIONS, neighbours=NEARBY),
    "DeepFool": lambda: attacks.deepfool(),
    # No early abort: libraries abort differently, and the same number of gradients is what is timed.
    "C&W": lambda: attacks.carlini_wagner(
        binary_search_steps=SEARCHES, max_iterations=STEPS, abort_early=False
    ),
    "DDN": lambda: attacks.ddn(steps=NEAREST),
    "FMN L2": lambda: attacks.fmn(steps=NEAREST),
    "FMN L∞": lambda: attacks.fmn(steps=NEAREST, norm="linf"),
    "APGD": lambda: attacks.apgd(SMALL, steps=FEW),
    "APGD-T": lambda: attacks.apgd_t(SMALL, steps=FEW, targets=TARGETS),
    "FAB-T": lambda: attacks.fab_t(steps=FEW, targets=TARGETS, start_radius=SMALL),
    "Square": lambda: attacks.square(LARGER, queries=QUERIES),
    "SPSA": lambda: attacks.spsa(LARGER, steps=CLIMBS, samples=DIRECTIONS, stop_early=False),
    "HopSkipJump": lambda: attacks.hop_skip_jump(steps=HOPS, init_num_evals=FIRST_QUERIES),
}
# Where only a perturbation of at most this L-infinity size is a success.
BUDGETS = {"APGD": SMALL, "APGD-T": SMALL, "FAB-T": SMALL, "Square": LARGER, "SPSA": LARGER}
# Gradients in a step; those of DeepFool are of all candidates but the class itself.
GRADIENTS = {
    "DeepFool": 9,
    **dict.fromkeys(("I-FGSM", "MI-FGSM", "DI2-FGSM", "PGD", "C&W", "APGD", "APGD-T"), 1),
    **dict.fromkeys(("DDN", "FMN L2", "FMN L∞", "SI-NI-FGSM", "VMI-FGSM"), 1),
}

SIDE = 160


def sample_images(classifier: Any, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The sample images that are classified correctly, on the 8-bit grid, and their labels."""
    images, labels = common.sample_images(settings.size or SIDE, settings.copies)
    right = np.asarray(_predict(classifier, images)) == labels
    return images[right], labels[right]


@jax.jit
def _predict(classifier: Any, images: jax.Array) -> jax.Array:
    return classifier(images).argmax(axis=-1)


@jax.jit
def value_and_gradient(classifier: Any, images: jax.Array, labels: jax.Array) -> Any:
    """The sum of the cross-entropies, and its gradient with respect to the images."""

    def loss(images: jax.Array) -> jax.Array:
        return jax.vmap(cross_entropy)(classifier(images), labels).sum()

    return jax.value_and_grad(loss)(images)


def srdef_runs(classifier: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """srdef: every attack."""
    victim = Undefended(classifier)

    def run(attack: Any) -> attacks.AttackResult:
        return attacks.perturb(attack, victim, images, labels, key=jax.random.key(0))

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
    cw = zoo.L2CarliniWagnerAttack(SEARCHES, STEPS, stepsize=5e-3, initial_const=1e-2, abort_early=False)
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
        "DDN": lambda: run(zoo.DDNAttack(steps=NEAREST), None),
        # Its L2 does not project onto the ball; the same number of gradients.
        "FMN L2": lambda: run(zoo.L2FMNAttack(steps=NEAREST), None),
        "FMN L∞": lambda: run(zoo.LInfFMNAttack(steps=NEAREST), None),
    }


def torch_network(side: int) -> Any:
    """The PyTorch reference implementation with the same weights, in evaluation mode."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
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
            # ART's HopSkipJump sends float64.
            return self.network((images.float() * 255 - 127) / 128)

    torch.set_num_threads(cores.usable())
    return Scaled().eval()


def torchattacks_runs(network: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """torchattacks; its DeepFool tries all 1000 classes one image at a time and is left out."""
    import torch
    import torchattacks

    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    classes = torch.from_numpy(labels.astype(np.int64))

    def run(attack: Any) -> np.ndarray:
        return attack(inputs, classes).detach().numpy().transpose(0, 2, 3, 1)

    return {
        "I-FGSM": lambda: run(torchattacks.BIM(network, EPSILON, EPSILON / 10, 10)),
        "MI-FGSM": lambda: run(torchattacks.MIFGSM(network, EPSILON, EPSILON / 10, 10, 1.0)),
        "DI2-FGSM": lambda: run(torchattacks.DIFGSM(network, EPSILON, EPSILON / 10, 10)),
        "PGD": lambda: run(torchattacks.PGD(network, EPSILON, EPSILON / 4, 10)),
        "SI-NI-FGSM": lambda: run(
            torchattacks.SINIFGSM(network, EPSILON, EPSILON / ITERATIONS, ITERATIONS, m=NEARBY)
        ),
        "VMI-FGSM": lambda: run(
            torchattacks.VMIFGSM(network, EPSILON, EPSILON / ITERATIONS, ITERATIONS, N=NEARBY)
        ),
        # It has no search over c; the same number of gradients with its default c.
        "C&W": lambda: run(torchattacks.CW(network, c=1, steps=SEARCHES * STEPS, lr=5e-3)),
        "APGD": lambda: run(torchattacks.APGD(network, eps=SMALL, steps=FEW)),
        # It counts targets by classes.
        "APGD-T": lambda: run(torchattacks.APGDT(network, eps=SMALL, steps=FEW, n_classes=TARGETS + 1)),
        "FAB-T": lambda: run(
            torchattacks.FAB(network, eps=SMALL, steps=FEW, multi_targeted=True, n_classes=TARGETS + 1)
        ),
        "Square": lambda: run(
            torchattacks.Square(network, eps=LARGER, n_queries=QUERIES, resc_schedule=False)
        ),
        "SPSA": lambda: run(torchattacks.SPSA(network, LARGER, 0.01, 0.01, CLIMBS, DIRECTIONS, DIRECTIONS)),
    }


def art_runs(network: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Run]:
    """ART; its DeepFool and its C&W take many minutes for a few images and are left out."""
    import torch
    from art.attacks.evasion import (
        BasicIterativeMethod,
        HopSkipJump,
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

    fixed: dict[str, Any] = {"batch_size": len(images), "verbose": False, "max_iter": 10}
    return {
        "I-FGSM": lambda: run(BasicIterativeMethod(model, EPSILON, EPSILON / 10, **fixed)),
        "MI-FGSM": lambda: run(
            MomentumIterativeMethod(model, eps=EPSILON, eps_step=EPSILON / 10, decay=1.0, **fixed)
        ),
        "PGD": lambda: run(
            ProjectedGradientDescent(model, eps=EPSILON, eps_step=EPSILON / 4, num_random_init=1, **fixed)
        ),
        "HopSkipJump": lambda: run(
            HopSkipJump(
                model,
                **{**fixed, "max_iter": HOPS},
                init_eval=FIRST_QUERIES,
                max_eval=10_000,
                init_size=100,
            )
        ),
    }


HEADER = ["attack", "library", "seconds", "÷ srdef", "floor ÷ time", "first call", "success", "median L2"]


def run(settings: Settings) -> None:
    """Time all attacks and report."""
    names = common.chosen(list(ATTACKS), settings.only, "attack")
    libraries = common.chosen(["srdef", "foolbox", "torchattacks", "art"], settings.libraries, "library")
    classifier = models.create("efficientnet_lite0", pretrained=True)
    images, labels = sample_images(classifier, settings)
    cli.console.print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]} on {common.device()}")
    runs: dict[str, dict[str, Run]] = {"srdef": srdef_runs(classifier, images, labels)}
    if "foolbox" in libraries:
        runs["foolbox"] = foolbox_runs(classifier, images, labels)
    if {"torchattacks", "art"} & set(libraries):
        network = torch_network(images.shape[1])
        runs["torchattacks"] = torchattacks_runs(network, images, labels)
        runs["art"] = art_runs(network, images, labels)

    records: list[dict[str, Any]] = []
    for name in names:
        turns = {library: runs[library][name] for library in libraries if name in runs[library]}
        turns["gradient"] = lambda: [value_and_gradient(classifier, images, labels) for _ in range(IN_A_ROW)]
        timings = common.take_turns(turns, settings.repeats, name)
        gradient = timings.pop("gradient").median / IN_A_ROW
        for library, timing in timings.items():
            attacked = timing.result.images if library == "srdef" else timing.result
            changes = (attacked - images).reshape(len(images), -1)
            within = np.abs(changes).max(axis=1) <= BUDGETS.get(name, 1) * (1 + 1e-4)
            wrong = np.asarray(_predict(classifier, attacked)) != labels
            record: dict[str, Any] = {
                "attack": name,
                "library": library,
                "seconds": timing.median,
                "all_seconds": timing.seconds,
                "first_call": timing.first_call,
                "success": int((wrong & within).sum()),
                "images": len(images),
                "median_l2": float(np.median(np.linalg.norm(changes, axis=1))),
            }
            if library == "srdef" and name in GRADIENTS:
                record["gradients_per_image"] = float(timing.result.steps.mean()) * GRADIENTS[name]
                record["floor"] = record["gradients_per_image"] * gradient
            records.append(record)
    title = f"Attacks, {len(images)} images of {images.shape[1]} pixels"
    common.report(title, HEADER, rows(records), records, settings.write)


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """The table's cells."""
    ours = {r["attack"]: r["seconds"] for r in records if r["library"] == "srdef"}
    return [
        [
            r["attack"],
            r["library"],
            f"{r['seconds']:.2f}",
            f"{r['seconds'] / ours[r['attack']]:.2f}" if r["attack"] in ours else "",
            f"{r['floor'] / r['seconds']:.2f}" if "floor" in r else "",
            f"{r['first_call']:.1f}",
            f"{r['success']}/{r['images']}",
            f"{r['median_l2']:.4f}",
        ]
        for r in records
    ]
