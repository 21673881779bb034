"""Attack a classifier, defend it, and print the paper's table.

    python -m experiments.evaluate --config=configs/quickstart.py --workdir=workdir/quickstart

A run that was stopped continues where it was; a finished one only prints its table again. Another
configuration in the same workdir is refused, unless `--overwrite` says that its table may be replaced; the
adversarial images and predictions of both are kept.
"""

import argparse
from pathlib import Path
from typing import Any

from srdef.commands import cli
from srdef.evaluation import gray_box, progress, schema
from srdef.evaluation.experiment import resolve
from srdef.reporting import gray_box_files, tables
from srdef.storage import store


def main(config: Any, workdir: Path, overwrite: bool = False) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    config = cli.plain(config)
    schema.check("evaluation", config)
    cli.refuse_another(workdir, config, overwrite)
    cli.console.print("Loading data and networks")
    experiment = resolve(config)
    gray_box_files.check_gallery(experiment)
    with store.exclusive(workdir):
        outcome = gray_box.run(experiment, workdir / "store", progress.Reporter(cli.console))
        table = gray_box_files.write(workdir, experiment, outcome)
    cli.console.print(tables.attacks_to_rich(outcome.strengths))
    cli.console.print(table.to_rich(cli.console.width))
    cli.console.print(f"Records, table and gallery: {workdir}")


def run(options: argparse.Namespace) -> None:
    main(options.config, options.workdir, options.overwrite)


COMMAND = cli.Command(run, schema="evaluation", workdir=True)
