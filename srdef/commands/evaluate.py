"""Attack a classifier, defend it, and print the paper's table.

    srdef evaluate quickstart --workdir=workdir/quickstart

A run that was stopped continues where it was; a finished one only prints its table again. Another
configuration in the same workdir is refused, unless `--overwrite` says that its table may be replaced; the
adversarial images and predictions of both are kept. Many processes share the work of one run by
`--coordinator`, `--processes` and `--process`, or `--distributed`.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from srdef.commands import cli, processes
from srdef.evaluation import gray_box, progress, schema
from srdef.evaluation.batch_sizes import settle
from srdef.evaluation.experiment import resolve
from srdef.evaluation.processes import ALONE, Processes
from srdef.evaluation.programs import of_evaluation
from srdef.reporting import gray_box_files, tables


def main(config: Any, workdir: Path, overwrite: bool = False, members: Processes = ALONE) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    config = cli.plain(config)
    schema.check("evaluation", config)
    cli.refuse_another(workdir, config, overwrite)
    cli.console.print("Loading data and networks")
    experiment = resolve(config)
    gray_box_files.check_gallery(experiment)
    with members.hold(workdir):
        reporter = progress.Reporter(cli.console, processes=members)
        count, shape = len(experiment.dataset), experiment.dataset.image_shape
        jobs = partial(of_evaluation, experiment, shape=shape, everything=True)
        size = settle(config, count, workdir, reporter, jobs)
        experiment = replace(experiment, batch_size=size)
        outcome = gray_box.run(experiment, workdir / "store", reporter)
        if not members.first:
            return
        table = gray_box_files.write(workdir, experiment, outcome)
    cli.console.print(tables.attacks_to_rich(outcome.strengths))
    cli.console.print(table.to_rich(cli.console.width))
    cli.console.print(f"Records, table and gallery: {workdir}")


def run(options: argparse.Namespace) -> None:
    with processes.of(options, "evaluate", options.config) as members:
        main(options.config, options.workdir, options.overwrite, members)


COMMAND = cli.Command(run, schema="evaluation", workdir=True, options=processes.add_options)
