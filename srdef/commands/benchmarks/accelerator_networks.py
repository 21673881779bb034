"""Networks and defenses in the benchmark of an accelerator: the floor, EDSR, larger classifiers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from srdef import defenses, models
from srdef.commands.benchmarks import accelerator_torch
from srdef.commands.benchmarks.attacks import value_and_gradient
from srdef.commands.benchmarks.common import Run
from srdef.commands.benchmarks.ledger import Row
from srdef.commands.benchmarks.workbench import (
    BF16,
    FLOAT32,
    TF32,
    Workbench,
    forward,
    in_arithmetic,
    photographs,
    rounded,
)
from srdef.images import to_uint8

# Rows that others are measured by.
GRADIENT, FORWARD, EDSR = "gradient", "forward", "EDSR x2"
PATCHES, QUILTED = 5000, 4  # of quilting's bank, and its images
_KEY = 0


def floor(bench: Workbench) -> list[Row]:
    """A gradient of the batch and a forward pass: what attacks are made of."""

    def gradient(arithmetic: str) -> Run:
        images, labels = bench.attacked
        network = rounded(bench.classifier, arithmetic)
        batch = rounded(jnp.asarray(images), arithmetic)
        return in_arithmetic(arithmetic, value_and_gradient, network, batch, jnp.asarray(labels))

    def logits(arithmetic: str) -> Run:
        network = rounded(bench.classifier, arithmetic)
        return in_arithmetic(
            arithmetic, forward, network, rounded(jnp.asarray(bench.attacked[0]), arithmetic)
        )

    def row(what: str, library: str, arithmetic: str, make: Callable[[str], Run]) -> Row:
        return Row(what, library, arithmetic, partial(make, arithmetic), bench.sizes.batch)

    theirs = partial(accelerator_torch.gradient, bench)
    return [
        row(GRADIENT, "srdef", FLOAT32, gradient),
        row(GRADIENT, "srdef", TF32, gradient),
        row(FORWARD, "srdef", TF32, logits),
        row(FORWARD, "srdef", FLOAT32, logits),
        row(GRADIENT, "PyTorch", TF32, theirs),
        row(GRADIENT, "PyTorch", FLOAT32, theirs),
        row(FORWARD, "PyTorch", TF32, partial(accelerator_torch.forward, bench)),
        row(GRADIENT, "PyTorch", BF16, theirs),
        row(GRADIENT, "srdef", BF16, gradient),
        row(FORWARD, "srdef", BF16, logits),
    ]


def networks(bench: Workbench) -> list[Row]:
    """EDSR on arrays of the device, and as a defense on arrays of the host."""

    def enlarge(arithmetic: str) -> Run:
        images = rounded(jnp.asarray(bench.small_images), arithmetic)
        return in_arithmetic(arithmetic, forward, rounded(bench.edsr, arithmetic), images)

    def defend(arithmetic: str) -> Run:
        defense = defenses.SuperResolution(bench.edsr)
        return in_arithmetic(arithmetic, partial(_defend, defense, bench.small_images))

    def row(what: str, library: str, arithmetic: str, make: Callable[[str], Run], work: Any = None) -> Row:
        return Row(what, library, arithmetic, partial(make, arithmetic), bench.sizes.enlarged, work)

    theirs = partial(accelerator_torch.enlarged, bench)
    applied, one = "EDSR x2 apply", lambda result: {EDSR: 1}
    return [
        row(EDSR, "srdef", TF32, enlarge),
        row(applied, "srdef", TF32, defend, one),
        row(EDSR, "srdef", FLOAT32, enlarge),
        row(EDSR, "srdef", BF16, enlarge),
        row(EDSR, "PyTorch", TF32, theirs),
        row(EDSR, "PyTorch", BF16, theirs),
        row(EDSR, "PyTorch", FLOAT32, theirs),
        row(applied, "srdef", FLOAT32, defend, one),
    ]


def compiled(bench: Workbench) -> list[Row]:
    """What `torch.compile` makes of the same networks; it takes its time."""
    gradient = partial(accelerator_torch.gradient, bench, through=accelerator_torch.compiled)
    enlarged = partial(accelerator_torch.enlarged, bench, through=accelerator_torch.compiled)
    name = "torch.compile"
    return [
        Row(GRADIENT, name, TF32, partial(gradient, TF32), bench.sizes.batch),
        Row(EDSR, name, BF16, partial(enlarged, BF16), bench.sizes.enlarged),
        Row(EDSR, name, TF32, partial(enlarged, TF32), bench.sizes.enlarged),
    ]


def classifiers(bench: Workbench) -> list[Row]:
    """Gradients of larger classifiers with random weights."""
    count = bench.sizes.classified

    def gradient(name: str, side: int, arithmetic: str) -> Run:
        images, labels = photographs(side, count)
        network = models.create(name)
        return in_arithmetic(
            arithmetic, value_and_gradient, network, jnp.asarray(images), jnp.asarray(labels)
        )

    rows = []
    for arithmetic in (TF32, FLOAT32):
        for name, side in bench.classifiers.items():
            theirs = partial(accelerator_torch.classifier_gradient, name, side, count, arithmetic)
            rows += [
                Row(f"{name} {side}", "srdef", arithmetic, partial(gradient, name, side, arithmetic), count),
                Row(f"{name} {side}", "PyTorch", arithmetic, theirs, count),
            ]
    return rows


def other_defenses(bench: Workbench) -> list[Row]:
    """Defenses without a network, through `defenses.apply`, in float32."""
    side = bench.sizes.enlarged_side

    def quilting() -> Any:
        images = to_uint8(photographs(side, 20)[0])
        return defenses.Quilting(defenses.build_bank(images, max(PATCHES // bench.sizes.fewer, 20)))

    def row(what: str, make: Callable[[], Any], count: int = bench.sizes.defended) -> Row:
        def defend() -> Run:
            return in_arithmetic(FLOAT32, partial(_defend, make(), photographs(side, count)[0]))

        return Row(what, "srdef", FLOAT32, defend, count)

    return [
        row("wavelet", lambda: defenses.Wavelet(sigma=0.04)),
        row("JPEG", lambda: defenses.Jpeg(80)),
        row("resize + pad", defenses.ResizePad),
        row("TVM", defenses.TotalVariation),
        row("non-local means", defenses.NonLocalMeans),
        row("quilting", quilting, min(QUILTED, bench.sizes.defended)),
    ]


def _defend(defense: Any, images: Any) -> Any:
    return defenses.apply(defense, images, key=jax.random.key(_KEY))
