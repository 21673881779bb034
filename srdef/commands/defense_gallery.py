"""One attacked image through every defense of a configuration, as a picture.

    srdef defense-gallery defense_gallery --workdir=workdir/gallery

The attack is `config.gallery.attack`; the image is the first of the data set that is classified correctly
(`--config.dataset.offset=7` for another). Leaves `defense_gallery.png` and `config.json` in the workdir.
"""

import argparse
from pathlib import Path
from typing import Any

from srdef.commands import cli
from srdef.evaluation import schema
from srdef.evaluation.experiment import resolve
from srdef.reporting import defense_gallery, gray_box_files
from srdef.storage import results, store


def main(config: Any, workdir: Path, overwrite: bool = False) -> None:
    """Attack the image, defend it, and write the picture."""
    config = cli.plain(config)
    schema.check("evaluation", config)
    cli.refuse_another(workdir, config, overwrite)
    cli.console.print("Loading data and networks")
    experiment = resolve(config)
    gray_box_files.check_gallery(experiment)
    attack = experiment.config["gallery"]["attack"]
    with store.exclusive(workdir):
        results.begin(workdir, config)
        label, panels = defense_gallery.panels(experiment, attack)
        class_names = experiment.dataset.class_names
        setting = f"{experiment.classifier_name} under {attack}, seed {experiment.seed}"
        defense_gallery.save(
            workdir / "defense_gallery.png",
            panels,
            label=label,
            class_names=class_names,
            title=f"{class_names[label]}: {setting}",
        )
    for panel in panels:
        mark = "right" if panel.prediction == label else "wrong"
        words = f"{panel.name:32} {mark}  {100 * panel.confidence:5.1f} %  {class_names[panel.prediction]}"
        cli.console.print(words, highlight=False, markup=False)
    cli.console.print(f"Picture: {workdir / 'defense_gallery.png'}")


def run(options: argparse.Namespace) -> None:
    main(options.config, options.workdir, options.overwrite)


COMMAND = cli.Command(run, schema="evaluation", workdir=True)
