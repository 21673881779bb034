"""Attacks in the benchmark of an accelerator, beside torchattacks in PyTorch and foolbox in JAX.

Attacks of fixed length do not stop early, so that all libraries take as many gradients. The others run as
they are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srdef import attacks
from srdef.attacks.autoattack import ensemble
from srdef.commands.benchmarks import accelerator_torch
from srdef.commands.benchmarks.accelerator_networks import FORWARD, GRADIENT
from srdef.commands.benchmarks.attacks import EPSILON, LARGER, SMALL
from srdef.commands.benchmarks.common import Run
from srdef.commands.benchmarks.ledger import Row
from srdef.commands.benchmarks.workbench import FLOAT32, TF32, Sizes, Workbench, forward, in_arithmetic
from srdef.victims import Undefended

RADIUS = 8 / 255  # of PGD
SEARCHES = 5  # of C&W
TARGETS = 9  # of FAB-T
CANDIDATES = 10  # of DeepFool
# How `perturb` calls the arithmetic of its steps; it judges in float32.
_WORDS = {FLOAT32: "float32", TF32: "tensorfloat32"}


class Attack(NamedTuple):
    """An attack of srdef, what a step of it costs, and the same of other libraries."""

    make: Callable[[Sizes], Any]
    step: Mapping[str, float]  # rows of the floor
    torchattacks: Callable[[Sizes, Any, Any], Any] | None = None  # of sizes, library and network
    foolbox: Callable[[Sizes, Any], tuple[Any, float | None]] | None = None  # the attack, and its ε


ATTACKS: dict[str, Attack] = {
    "MI-FGSM 10": Attack(
        lambda sizes: attacks.mifgsm(EPSILON, steps=sizes.steps(10)),
        {GRADIENT: 1},
        lambda sizes, zoo, network: zoo.MIFGSM(network, EPSILON, EPSILON / 10, sizes.steps(10), 1.0),
    ),
    "MI-FGSM 100": Attack(
        lambda sizes: attacks.mifgsm(EPSILON, steps=sizes.steps(100)),
        {GRADIENT: 1},
        lambda sizes, zoo, network: zoo.MIFGSM(network, EPSILON, EPSILON / 100, sizes.steps(100), 1.0),
    ),
    "PGD 40": Attack(
        lambda sizes: attacks.pgd(RADIUS, steps=sizes.steps(40), step_size=RADIUS / 4, stop_early=False),
        {GRADIENT: 1},
        lambda sizes, zoo, network: zoo.PGD(network, RADIUS, RADIUS / 4, sizes.steps(40)),
        lambda sizes, zoo: (zoo.LinfPGD(abs_stepsize=RADIUS / 4, steps=sizes.steps(40)), RADIUS),
    ),
    "APGD 100": Attack(
        lambda sizes: attacks.apgd(SMALL, steps=sizes.steps(100), stop_early=False),
        {GRADIENT: 1},
        lambda sizes, zoo, network: zoo.APGD(network, eps=SMALL, steps=sizes.steps(100)),
    ),
    "C&W 5x100": Attack(
        lambda sizes: attacks.carlini_wagner(
            binary_search_steps=SEARCHES, max_iterations=sizes.steps(100), abort_early=False
        ),
        {GRADIENT: 1},
        # It has no search over c; the same number of gradients with its default c.
        lambda sizes, zoo, network: zoo.CW(network, c=1, steps=SEARCHES * sizes.steps(100), lr=5e-3),
    ),
    # Its gradients share one forward pass, for which the floor charges each.
    "DeepFool": Attack(
        lambda sizes: attacks.deepfool(steps=sizes.steps(50), candidates=CANDIDATES),
        {GRADIENT: CANDIDATES - 1},
    ),
    "DDN 100": Attack(
        lambda sizes: attacks.ddn(steps=sizes.steps(100)),
        {GRADIENT: 1},
        foolbox=lambda sizes, zoo: (zoo.DDNAttack(steps=sizes.steps(100)), None),
    ),
    "FMN 100": Attack(
        lambda sizes: attacks.fmn(steps=sizes.steps(100)),
        {GRADIENT: 1},
        foolbox=lambda sizes, zoo: (zoo.L2FMNAttack(steps=sizes.steps(100)), None),
    ),
    "Square 1000": Attack(
        lambda sizes: attacks.square(LARGER, queries=sizes.steps(1000)),
        {FORWARD: 1},
        lambda sizes, zoo, network: zoo.Square(
            network, eps=LARGER, n_queries=sizes.steps(1000), resc_schedule=False
        ),
    ),
    "FAB-T 9x20": Attack(
        lambda sizes: attacks.fab_t(steps=sizes.steps(20), targets=TARGETS, start_radius=SMALL),
        {GRADIENT: 1, FORWARD: 1},
        # It counts targets by classes.
        lambda sizes, zoo, network: zoo.FAB(
            network, eps=SMALL, steps=sizes.steps(20), multi_targeted=True, n_classes=TARGETS + 1
        ),
    ),
}


def ours(bench: Workbench, name: str, arithmetic: str, on_device: bool = False) -> Row:
    """srdef's row; its result says how many steps each image has taken.

    `on_device`: of images that lie on the device already, and whose adversarial images stay there.
    """

    def work(result: attacks.AttackResult) -> dict[str, float]:
        return {what: times * float(result.steps.mean()) for what, times in ATTACKS[name].step.items()}

    def run() -> Run:
        images, labels = bench.attacked
        given = jnp.asarray(images) if on_device else images
        attack = ATTACKS[name].make(bench.sizes)
        return _perturb(bench, attack, given, labels, arithmetic, on_device=on_device)

    what = f"{name} on device" if on_device else name
    return Row(what, "srdef", arithmetic, run, bench.sizes.batch, work)


def in_torchattacks(bench: Workbench, name: str, arithmetic: str) -> Row:
    """torchattacks' row."""
    make = ATTACKS[name].torchattacks
    assert make is not None, name
    run = partial(accelerator_torch.attack, bench, arithmetic, partial(make, bench.sizes))
    return Row(name, "torchattacks", arithmetic, run, bench.sizes.batch)


def in_foolbox(bench: Workbench, name: str, arithmetic: str) -> Row:
    """foolbox's row, through its JAX model on the jitted classifier."""

    def run() -> Run:
        import foolbox

        make = ATTACKS[name].foolbox
        assert make is not None, name
        made, epsilon = make(bench.sizes, foolbox.attacks)
        model = foolbox.JAXModel(
            partial(forward, bench.classifier), bounds=(0, 1), data_format="channels_last"
        )
        images, labels = map(jnp.asarray, bench.attacked)
        return in_arithmetic(arithmetic, lambda: made(model, images, labels, epsilons=epsilon)[1])

    return Row(name, "foolbox", arithmetic, run, bench.sizes.batch)


def _perturb(
    bench: Workbench, attack: Any, images: Any, labels: np.ndarray, arithmetic: str, **options: Any
) -> Run:
    options |= {"key": jax.random.key(0), "arithmetic": _WORDS[arithmetic]}
    return partial(attacks.perturb, attack, Undefended(bench.classifier), images, labels, **options)


def budgets(bench: Workbench) -> list[Row]:
    """Attacks within a ball, of a fixed number of gradients."""
    names = "MI-FGSM 10", "MI-FGSM 100"
    momentum = [(name, arithmetic) for name in names for arithmetic in (TF32, FLOAT32)]
    return [
        *(ours(bench, *pair) for pair in momentum),
        *(ours(bench, "MI-FGSM 10", arithmetic, on_device=True) for arithmetic in (TF32, FLOAT32)),
        *(in_torchattacks(bench, *pair) for pair in momentum),
        *(ours(bench, name, TF32) for name in ("PGD 40", "APGD 100")),
    ]


def nearest(bench: Workbench) -> list[Row]:
    """Attacks that look for the nearest adversarial image."""
    return [ours(bench, name, TF32) for name in ("C&W 5x100", "DeepFool")]


def libraries(bench: Workbench) -> list[Row]:
    """The same attacks of other libraries."""
    return [
        in_torchattacks(bench, "PGD 40", TF32),
        in_foolbox(bench, "PGD 40", TF32),
        in_torchattacks(bench, "APGD 100", TF32),
        in_torchattacks(bench, "C&W 5x100", TF32),
    ]


def rest(bench: Workbench) -> list[Row]:
    """The other attacks, and those of other libraries."""
    return [
        *(ours(bench, name, TF32) for name in ("DDN 100", "FMN 100", "Square 1000", "FAB-T 9x20")),
        *(in_foolbox(bench, name, TF32) for name in ("DDN 100", "FMN 100")),
        *(in_torchattacks(bench, name, TF32) for name in ("Square 1000", "FAB-T 9x20")),
    ]


def float32(bench: Workbench) -> list[Row]:
    """What the attacks above take in float32."""
    names = (
        "PGD 40",
        "APGD 100",
        "DeepFool",
        "DDN 100",
        "Square 1000",
        "C&W 5x100",
        "FAB-T 9x20",
    )
    return [ours(bench, name, FLOAT32) for name in names]


def ensembles(bench: Workbench) -> list[Row]:
    """AutoAttack, at a radius at which some images stand."""
    sizes, name = bench.sizes, "AutoAttack"

    def chosen(bench: Workbench) -> tuple[np.ndarray, np.ndarray]:
        return bench.images_to_attack(sizes.ensemble)

    def members() -> dict[str, Any]:
        return {part: _shortened(attack, sizes) for part, attack in ensemble("standard", SMALL).items()}

    def standard(arithmetic: str) -> Run:
        made = attacks.autoattack(SMALL, attacks=members())
        return _perturb(bench, made, *chosen(bench), arithmetic)

    def theirs(zoo: Any, network: Any) -> Any:
        # Its own standard version takes 10 steps in the place of 100.
        steps = sizes.steps(100)
        targets = {"eps": SMALL, "steps": steps, "n_classes": TARGETS + 1}
        return zoo.MultiAttack(
            [
                zoo.APGD(network, eps=SMALL, steps=steps),
                zoo.APGDT(network, **targets),
                zoo.FAB(network, multi_targeted=True, **targets),
                zoo.Square(network, eps=SMALL, n_queries=sizes.steps(5000), resc_schedule=False),
            ]
        )

    def own(arithmetic: str) -> Row:
        return Row(name, "srdef", arithmetic, partial(standard, arithmetic), sizes.ensemble)

    other = partial(accelerator_torch.attack, bench, TF32, theirs, chosen)
    return [own(TF32), Row(name, "torchattacks", TF32, other, sizes.ensemble), own(FLOAT32)]


def _shortened(attack: Any, sizes: Sizes) -> Any:
    """The attack with as many steps, or queries, as it has at these sizes."""
    field = "queries" if hasattr(attack, "queries") else "steps"
    return attack.replace(**{field: sizes.steps(getattr(attack, field))})
