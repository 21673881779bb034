"""Write one self-contained HTML page about a finished run.

    python -m experiments.report --workdir=workdir/quickstart

Leaves `report.html` in the workdir, which is that of `experiments.evaluate`, `experiments.adaptive` or
`experiments.manifold`. The page of an evaluation has a gallery: `--attack=FGSM-2 --attack=DeepFool` chooses
whose images it shows (default: that of the configuration's gallery), `--images` how many; `--images=0` leaves
it out, and then neither the data set nor the networks are needed.
"""

import argparse

from srdef.commands import cli
from srdef.reporting import page
from srdef.storage import files


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attack",
        metavar="LABEL",
        action="append",
        default=[],
        help="attack whose images are shown; may be given again",
    )
    parser.add_argument(
        "--images", metavar="NUMBER", type=int, default=6, help="images in the gallery for each attack (6)"
    )


def run(options: argparse.Namespace) -> None:
    """Read the workdir, write the page."""
    file = options.workdir / "report.html"
    text = page.build(options.workdir, options.attack, options.images)
    files.write_atomically(file, text)
    cli.console.print(f"wrote {file} ({len(text) / 1e6:.1f} MB)", highlight=False, soft_wrap=True)


COMMAND = cli.Command(run, workdir=True, options=add_options)
