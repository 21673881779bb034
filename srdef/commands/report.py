"""Write one self-contained HTML page about a finished run.

    srdef report --workdir=workdir/quickstart

Leaves `report.html` in the workdir, which is that of `srdef evaluate`, `adaptive`, `manifold` or
`transfer`. The page of an evaluation has a gallery: `--attack=FGSM-2 --attack=DeepFool` chooses
whose images it shows (default: that of the configuration's gallery), `--images` how many; `--images=0` leaves
it out, and then neither the data set nor the networks are needed. `--trace=I-FGSM` attacks these images once
more, and draws margin, loss and success over the steps (`trace.pdf`, `.png`). Of an attack in L∞ at four ε or
more it draws the curve, and leaves it as `epsilon_curves.pdf`, `.png`, `.csv` and `.md` too.

Code of your own that the run used (a configuration that registers something, names `MODULE:FUNCTION`) is
imported again from the files that the run has noted: make reports only of runs that you trust.
"""

import argparse
import json
from pathlib import Path

from srdef.commands import cli
from srdef.own_code import by_name
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
        "--trace",
        metavar="LABEL",
        action="append",
        default=[],
        help="attack whose steps are drawn; may be given again",
    )
    parser.add_argument(
        "--images", metavar="NUMBER", type=int, default=6, help="images in the gallery for each attack (6)"
    )


def run(options: argparse.Namespace) -> None:
    """Read the workdir, write the page."""
    file = options.workdir / "report.html"
    if options.images:
        restore_imports(options.workdir)
    text = page.build(options.workdir, options.attack, options.images, options.trace)
    files.write_atomically(file, text)
    cli.console.print(f"wrote {file} ({len(text) / 1e6:.1f} MB)", highlight=False, soft_wrap=True)


def restore_imports(workdir: Path) -> None:
    """Import what `environment.json` says that the run has imported; nothing if it says nothing."""
    try:
        noted = json.loads((workdir / "environment.json").read_text(encoding="utf-8")).get("imports", {})
        found = {
            str(name): {key: str(entry[key]) for key in ("file", "sha256")} for name, entry in noted.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return  # the page says what is missing or damaged
    by_name.restore(found)


COMMAND = cli.Command(run, workdir=True, options=add_options)
