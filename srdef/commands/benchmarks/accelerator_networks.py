"""Networks and defenses in the benchmark of an accelerator: the floor, EDSR, larger classifiers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from srdef import defenses
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


def of_network(
    what: str,
    arithmetic: str,
    function: Any,
    network: Callable[[], Any],
    inputs: Callable[[], tuple[Any, ...]],
    count: int,
) -> Row:
    """srdef's row of a jitted function of a network and images.

    Parameters
    ----------
    what, arithmetic : str
        The row's.
    function : jitted function
        Of network, images, and labels if there are any.
    network, inputs : callable
        Return the network, and the images and labels.
    count : int
        Of the images.
    """

    def make() -> Run:
        images, *labels = inputs()
        given = (*rounded((network(), images), arithmetic), *map(jnp.asarray, labels))
        return in_arithmetic(arithmetic, function, *given)

    return Row(what, "srdef", arithmetic, make, count)


def _of_classifier(bench: Workbench, what: str, arithmetic: str) -> Row:
    function, arrays = (value_and_gradient, 2) if what == GRADIENT else (forward, 1)
    return of_network(
        *(what, arithmetic, function),
        lambda: bench.classifier,
        lambda: bench.attacked[:arrays],
        bench.sizes.batch,
    )


def _in_torch(bench: Workbench, what: str, arithmetic: str) -> Row:
    make = accelerator_torch.gradient if what == GRADIENT else accelerator_torch.forward
    return Row(what, "PyTorch", arithmetic, partial(make, bench, arithmetic), bench.sizes.batch)


def floor(bench: Workbench) -> list[Row]:
    """A gradient of the batch and a forward pass: what attacks are made of."""
    both = FLOAT32, TF32
    return [
        *(_of_classifier(bench, what, arithmetic) for what in (GRADIENT, FORWARD) for arithmetic in both),
        *(_in_torch(bench, what, arithmetic) for what in (GRADIENT, FORWARD) for arithmetic in both),
    ]


def bf16(bench: Workbench) -> list[Row]:
    """The same with weights and images of bfloat16, and with PyTorch's autocast."""
    return [
        _of_classifier(bench, GRADIENT, BF16),
        _of_classifier(bench, FORWARD, BF16),
        _in_torch(bench, GRADIENT, BF16),
    ]


def networks(bench: Workbench) -> list[Row]:
    """EDSR on arrays of the device, and as a defense of arrays of the host: to the host, or not back."""
    count = bench.sizes.enlarged

    def enlarge(arithmetic: str) -> Row:
        return of_network(EDSR, arithmetic, forward, lambda: bench.edsr, lambda: (bench.small_images,), count)

    def apply(arithmetic: str, on_device: bool = False) -> Row:
        def make() -> Any:
            return defenses.SuperResolution(bench.edsr)

        return _of_defense(
            f"{EDSR} apply{' on device' if on_device else ''}",
            arithmetic,
            count,
            make,
            lambda: bench.small_images,
            on_device=on_device,
            work=lambda result: {EDSR: 1},
        )

    def theirs(arithmetic: str) -> Row:
        return Row(EDSR, "PyTorch", arithmetic, partial(accelerator_torch.enlarged, bench, arithmetic), count)

    return [
        enlarge(TF32),
        apply(TF32),
        apply(TF32, on_device=True),
        enlarge(FLOAT32),
        apply(FLOAT32),
        apply(FLOAT32, on_device=True),
        enlarge(BF16),
        *(theirs(arithmetic) for arithmetic in (TF32, FLOAT32, BF16)),
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

    def gradient(name: str, side: int, arithmetic: str) -> Row:
        network, inputs = partial(bench.larger, name), partial(photographs, side, count)
        return of_network(f"{name} {side}", arithmetic, value_and_gradient, network, inputs, count)

    rows = []
    for arithmetic in (TF32, FLOAT32):
        for name, side in bench.classifiers.items():
            theirs = partial(accelerator_torch.classifier_gradient, name, side, count, arithmetic)
            rows += [
                gradient(name, side, arithmetic),
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
        return _of_defense(what, FLOAT32, count, make, lambda: photographs(side, count)[0])

    return [
        row("wavelet", lambda: defenses.Wavelet(sigma=0.04)),
        row("JPEG", lambda: defenses.Jpeg(80)),
        row("resize + pad", defenses.ResizePad),
        row("TVM", defenses.TotalVariation),
        row("non-local means", defenses.NonLocalMeans),
        row("quilting", quilting, min(QUILTED, bench.sizes.defended)),
    ]


def _of_defense(
    what: str,
    arithmetic: str,
    count: int,
    make: Callable[[], Any],
    images: Callable[[], Any],
    *,
    on_device: bool = False,
    work: Any = None,
) -> Row:
    """srdef's row of a defense, which `make` returns, through `defenses.apply`."""

    def defend(defense: Any, images: Any) -> Any:
        return defenses.apply(defense, images, key=jax.random.key(_KEY), on_device=on_device)

    def call() -> Run:
        return in_arithmetic(arithmetic, defend, make(), images())

    return Row(what, "srdef", arithmetic, call, count, work)
