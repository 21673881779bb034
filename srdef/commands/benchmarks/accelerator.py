"""An accelerator at work: networks, attacks and defenses beside PyTorch, torchattacks and foolbox.

Parts and rows come in the order of their importance, and each part has its time, so that a few minutes of a
GPU give the most they can. First calls compile, one program after the other: a GPU's compiler times kernels.
"""

import os
from importlib import metadata
from typing import Any

import jax

import srdef
from srdef.commands import cli
from srdef.commands.benchmarks import (
    accelerator_attacks,
    accelerator_networks,
    accelerator_torch,
    common,
)
from srdef.commands.benchmarks.common import Settings
from srdef.commands.benchmarks.ledger import Ledger
from srdef.commands.benchmarks.workbench import Workbench, sizes

PARTS: dict[str, Any] = {
    "floor": accelerator_networks.floor,
    "attacks": accelerator_attacks.budgets,
    "nearest": accelerator_attacks.nearest,
    "networks": accelerator_networks.networks,
    "bf16": accelerator_networks.bf16,
    "defenses": accelerator_networks.other_defenses,
    "libraries": accelerator_attacks.libraries,
    "rest": accelerator_attacks.rest,
    "float32": accelerator_attacks.float32,
    "classifiers": accelerator_networks.classifiers,
    "autoattack": accelerator_attacks.ensembles,
    "compiled": accelerator_networks.compiled,
}
LIBRARIES = ["srdef", "PyTorch", "torch.compile", "torchattacks", "foolbox"]
_MEMORY = "XLA_PYTHON_CLIENT_PREALLOCATE"


def run(settings: Settings) -> None:
    """Time all parts, and report."""
    # JAX would take most of the memory for itself, and PyTorch needs some beside it.
    os.environ.setdefault(_MEMORY, "false")
    chosen = common.chosen(list(PARTS), settings.only, "part")
    libraries = common.chosen(LIBRARIES, settings.libraries, "library")
    bench = Workbench(sizes(settings))
    rows = {part: PARTS[part](bench) for part in PARTS if part in chosen}
    known = list(dict.fromkeys(row.what for part in rows.values() for row in part))
    names = common.chosen(known, settings.rows, "row")
    rows = {
        part: [row for row in members if row.what in names and row.library in libraries]
        for part, members in rows.items()
    }
    ledger = Ledger(
        title(bench),
        settings.write,
        limit=settings.limit,
        total=settings.total,
        repeats=settings.repeats,
        shortest=bench.sizes.shortest,
        rows=sum(map(len, rows.values())),
    )
    for part, members in rows.items():
        ledger.part(part, members)
        accelerator_torch.let_go()
    cli.console.print(f"{len(ledger.records)} rows" + (f", in {settings.write}" if settings.write else ""))


def title(bench: Workbench) -> str:
    """The device, the versions, and the sizes."""
    versions = [f"srdef {srdef.__version__}", f"jax {jax.__version__}"]
    for package, name in (("flax", "flax"), ("torch", "PyTorch"), ("torchattacks",) * 2, ("foolbox",) * 2):
        try:
            versions.append(f"{name} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    size = bench.sizes
    tiny = "tiny sizes and toy networks, " if size.toy else ""
    return (
        f"Accelerator benchmark, {common.device()}: {tiny}{size.batch} images of {size.side} pixels, "
        f"{', '.join(versions)}"
    )
