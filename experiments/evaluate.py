"""Attack a classifier, defend it, and print the paper's table.

    python -m experiments.evaluate --config=configs/quickstart.py --workdir=workdir/quickstart

A run that was stopped continues where it was; a finished one only prints its table again.
"""

from pathlib import Path

from ml_collections import ConfigDict

from experiments import cli
from srdef.evaluation import gray_box, progress, summaries
from srdef.evaluation.experiment import resolve
from srdef.reporting import gray_box_files
from srdef.storage import store


def main(config: ConfigDict, workdir: Path) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    cli.console.print("Loading data and networks")
    experiment = resolve(cli.plain(config))
    gray_box_files.check_gallery(experiment)
    with store.exclusive(workdir):
        outcome = gray_box.run(experiment, workdir / "store", progress.Reporter(cli.console))
        table = gray_box_files.write(workdir, experiment, outcome)
    cli.console.print(summaries.to_rich(outcome.strengths))
    cli.console.print(table.to_rich(cli.console.width))
    cli.console.print(f"Records, table and gallery: {workdir}")


if __name__ == "__main__":
    cli.run(main)
