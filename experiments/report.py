"""Write one self-contained HTML page about a finished run.

    python -m experiments.report --workdir=workdir/quickstart

Leaves `report.html` in the workdir, which is that of `experiments.evaluate`, `experiments.adaptive` or
`experiments.manifold`. The page of an evaluation has a gallery: `--attack=FGSM-2 --attack=DeepFool` chooses
whose images it shows (default: that of the configuration's gallery), `--images` how many; `--images=0` leaves
it out, and then neither the data set nor the networks are needed.
"""

from pathlib import Path

from absl import app, flags

from experiments import cli
from srdef.errors import InputError
from srdef.reporting import page
from srdef.storage import files

ATTACKS = flags.DEFINE_multi_string("attack", [], "Attack whose images are shown; may be given again.")
IMAGES = flags.DEFINE_integer("images", 6, "Images in the gallery for each attack.")


def main(arguments: list[str]) -> None:
    """Read the workdir, write the page."""
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options are written --name=value")
    if not cli.WORKDIR.value:
        raise InputError("usage: report --workdir=DIRECTORY")
    workdir = Path(cli.WORKDIR.value)
    file = workdir / "report.html"
    text = page.build(workdir, ATTACKS.value, IMAGES.value)
    files.write_atomically(file, text)
    cli.console.print(f"wrote {file} ({len(text) / 1e6:.1f} MB)", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app.run(cli.guarded(main), flags_parser=cli.parse)
