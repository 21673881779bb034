"""Attack each of several classifiers and ask all of them: the transfer matrix.

    python -m experiments.transfer --config=configs/transfer.py --workdir=workdir/transfer

Leaves the matrix as `transfer.md`, `transfer.json` and the heat map `transfer.png`. A run that was stopped
continues where it was.
"""

import argparse
from pathlib import Path
from typing import Any

from srdef.commands import cli
from srdef.evaluation import progress, schema, transfer_matrix
from srdef.reporting import gray_box_files, transfer_files
from srdef.storage import files, store


def main(config: Any, workdir: Path, overwrite: bool = False) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    plain = cli.plain(config)
    schema.check("transfer", plain)
    cli.refuse_another(workdir, plain, overwrite)
    cli.console.print("Loading data and networks")
    experiments = transfer_matrix.resolve(plain)
    with store.exclusive(workdir):
        files.write_atomically(workdir / "config.json", files.canonical_json(plain) + "\n")
        environment = files.canonical_json(gray_box_files.environment(plain.get("arithmetic"))) + "\n"
        files.write_atomically(workdir / "environment.json", environment)
        matrix = transfer_matrix.run(experiments, workdir / "store", progress.Reporter(cli.console))
        transfer_files.write(workdir, matrix)
    cli.console.print(transfer_files.to_rich(matrix))
    cli.console.print(f"Tables and heat map: {workdir}")


def run(options: argparse.Namespace) -> None:
    main(options.config, options.workdir, options.overwrite)


COMMAND = cli.Command(run, schema="transfer", workdir=True)
