"""PSNR and SSIM of super-resolution networks on folders of high-resolution images, beside bicubic.

    srdef evaluate-sr edsr_small_x2 --folder=Set5 --folder=Set14 --table=quality.md

A network is NAME, with the weights that come with srdef, or NAME=WEIGHTS: a file, or "official" for those of
the network's authors, which are downloaded:

    srdef evaluate-sr edsr_small_x2 edsr_baseline_x2=x2/edsr_baseline_x2.safetensors \\
        edsr_baseline_x2=official --folder=Set5

On Y of YCbCr and on RGB, a border of `scale` pixels left out, low resolution by antialiased bicubic
in 8 bits.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track
from rich.table import Table

from srdef import models
from srdef.commands import cli
from srdef.errors import InputError
from srdef.models.protocols import SuperResolutionNetwork
from srdef.paths import expanded
from srdef.reporting import labels as labels_of_tables
from srdef.storage import files
from srdef.training import patches, quality
from srdef.training.quality import Quality

COLUMNS = ("PSNR (dB), Y", "SSIM, Y", "PSNR (dB), RGB", "SSIM, RGB")
Row = tuple[str, int, str, Quality]


def load(argument: str) -> SuperResolutionNetwork:
    """The network that NAME or NAME=WEIGHTS names."""
    name, _, weights = argument.partition("=")
    network = models.create(name, pretrained=not weights, weights=weights or None)
    if not hasattr(network, "scale"):
        raise InputError(f"model {name!r} is not a super-resolution network")
    return network


def labels(arguments: list[str]) -> list[str]:
    """NAME or NAME (FILE) for each; the file as it was given where another one of that network has its name.

    Raises
    ------
    InputError
        If one stands there twice.
    """
    short, long = [], []
    for argument in arguments:
        name, _, weights = argument.partition("=")
        short.append(f"{name} ({Path(weights).name})" if weights else name)
        long.append(f"{name} ({weights})" if weights else name)
    for i, argument in enumerate(arguments):
        if long[i] in long[:i]:
            raise InputError(f"{argument} is named twice")
    return [full if short.count(brief) > 1 else brief for brief, full in zip(short, long, strict=True)]


def evaluate(networks: dict[str, SuperResolutionNetwork], folders: list[str]) -> list[Row]:
    """One row for each folder and network, after those of bicubic for every scale: means over the folder."""
    rows: list[Row] = []
    for where, folder in zip(patches.short_names(folders), folders, strict=True):
        photographs = patches.read_folder(folder, held_out=True)
        for scale in sorted({network.scale for network in networks.values()}):
            quality.check_sizes(photographs, scale, folder)
            found = quality.measure(quality.bicubic_results(scale, photographs), scale)
            rows.append((where, len(photographs), f"bicubic x{scale}", found))
        for name, network in networks.items():
            progress = track(photographs, f"{name} on {where}", console=cli.console, transient=True)
            found = quality.measure(quality.network_results(network, progress), network.scale)
            rows.append((where, len(photographs), name, found))
    return rows


def markdown(rows: list[Row]) -> str:
    """The rows as a table, and how they were measured."""
    lines = [f"| images | method | {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---:|"]
    for folder, count, name, values in rows:
        lines.append(labels_of_tables.row([f"{folder} ({count})", name, *quality.cells(values)]))
    return "\n".join([*lines, "", quality.CONDITIONS.format(border="scale")]) + "\n"


def as_json(rows: list[Row]) -> str:
    """The rows as a list of objects, numbers in full; the PSNR of equal images is "inf"."""
    records = [
        {"folder": folder, "images": count, "method": name, **values._asdict()}
        for folder, count, name, values in rows
    ]
    return json.dumps(files.for_json(records), indent=2, allow_nan=False) + "\n"


WRITERS = {".md": markdown, ".json": as_json}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="*", metavar="NETWORK[=WEIGHTS]", help="the networks")
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        action="append",
        default=[],
        help="folder of high-resolution images; may be given again",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        action="append",
        default=[],
        help="a .md or .json file for the table; may be given again",
    )


def run(options: argparse.Namespace) -> None:
    main(options.networks, options.folder, options.table)


def main(names: list[str], folders: list[str], written: Sequence[str] = ()) -> None:
    """Measure every named network on every folder."""
    if not names or not folders:
        raise InputError("usage: evaluate-sr NETWORK[=WEIGHTS] ... --folder=FOLDER ... [--table=FILE]")
    for file in written:
        if Path(file).suffix not in WRITERS:
            raise InputError(f"table {file}: unknown kind; choose from: {', '.join(WRITERS)}")
        files.check_writable(file)
        if not expanded(file).absolute().parent.is_dir():
            raise InputError(f"table {file}: its folder does not exist")
    networks = dict(zip(labels(names), map(load, names), strict=True))
    rows = evaluate(networks, folders)
    table = Table("images", "method", *COLUMNS)
    for folder, count, name, values in rows:
        table.add_row(f"{folder} ({count})", name, *quality.cells(values))
    cli.console.print(table)
    for file in written:
        files.write_atomically(Path(file), WRITERS[Path(file).suffix](rows))


COMMAND = cli.Command(run, options=add_options)
