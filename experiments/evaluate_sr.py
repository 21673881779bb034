"""PSNR of super-resolution networks on folders of high-resolution images, beside bicubic.

    python -m experiments.evaluate_sr edsr_small_x2 --folder=Set5 --folder=Set14

Y channel, a border of `scale` pixels cut off, low resolution by antialiased bicubic in 8 bits.
"""

from pathlib import Path

from absl import app, flags
from rich.progress import track
from rich.table import Table

from experiments import cli
from srdef import models
from srdef.errors import InputError
from srdef.training import super_resolution

FOLDERS = flags.DEFINE_multi_string("folder", [], "Folder of high-resolution images; may be given again.")
WEIGHTS = flags.DEFINE_string("weights", None, "A weights file instead of the shipped one.")


def main(names: list[str]) -> None:
    """Measure every named network on every folder."""
    if not names or not FOLDERS.value:
        raise InputError("usage: evaluate_sr NETWORK ... --folder=DIRECTORY ...")
    networks = {
        name: models.create(name, pretrained=WEIGHTS.value is None, weights=WEIGHTS.value) for name in names
    }
    for name, network in networks.items():
        if not hasattr(network, "scale"):
            raise InputError(f"model {name!r} is not a super-resolution network")
    table = Table("PSNR (dB, Y)", *names, *(f"bicubic x{n.scale}" for n in networks.values()))
    for folder in FOLDERS.value:
        photographs = super_resolution.read_folder(folder)
        values = []
        for name, network in networks.items():
            progress = track(
                photographs, f"{name} on {Path(folder).name}", console=cli.console, transient=True
            )
            values.append(super_resolution.evaluate_psnr(network, progress))
        values += [super_resolution.bicubic_psnr(photographs, n.scale) for n in networks.values()]
        table.add_row(f"{Path(folder).name} ({len(photographs)})", *(f"{value:.2f}" for value in values))
    cli.console.print(table)


if __name__ == "__main__":
    app.run(cli.guarded(lambda arguments: main(arguments[1:])), flags_parser=cli.parse)
