"""Attack each of several classifiers and ask all of them: the transfer matrix.

    srdef transfer transfer --workdir=workdir/transfer

Leaves the matrix as `transfer.md`, `transfer.json` and the heat map `transfer.png`. A run that was stopped
continues where it was. Many processes share its work by `--coordinator`, `--processes` and `--process`, or
`--distributed`.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from srdef.commands import cli, processes
from srdef.evaluation import progress, schema, transfer_matrix
from srdef.evaluation.batch_sizes import settle
from srdef.evaluation.processes import ALONE, Processes
from srdef.evaluation.programs import of_transfer
from srdef.reporting import gray_box_files, transfer_files


def main(config: Any, workdir: Path, overwrite: bool = False, members: Processes = ALONE) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    plain = cli.plain(config)
    schema.check("transfer", plain)
    cli.refuse_another(workdir, plain, overwrite)
    cli.console.print("Loading data and networks")
    experiments = transfer_matrix.resolve(plain)
    with members.hold(workdir):
        if members.first:
            gray_box_files.write_setting(workdir, plain, plain.get("arithmetic"))
        reporter = progress.Reporter(cli.console, processes=members)
        dataset = next(iter(experiments.values())).dataset
        jobs = partial(of_transfer, experiments, shape=dataset.image_shape, everything=True)
        size = settle(plain, len(dataset), workdir, reporter, jobs)
        experiments = {
            label: replace(experiment, batch_size=size) for label, experiment in experiments.items()
        }
        matrix = transfer_matrix.run(experiments, workdir / "store", reporter)
        if not members.first:
            return
        transfer_files.write(workdir, matrix)
    cli.console.print(transfer_files.to_rich(matrix))
    cli.console.print(f"Tables and heat map: {workdir}")


def run(options: argparse.Namespace) -> None:
    with processes.of(options, "transfer", options.config) as members:
        main(options.config, options.workdir, options.overwrite, members)


COMMAND = cli.Command(run, schema="transfer", workdir=True, options=processes.add_options)
