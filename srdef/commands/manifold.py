"""Train a classifier of clean against adversarial images, and ask it about defended ones (section 4.1).

    python -m experiments.manifold --config=configs/manifold.py:lite0 \\
        --config.dataset.path=NIPS2017 --workdir=workdir/manifold

Leaves in the workdir: `manifold.md` and `manifold.json` (the tables), `curves.png`, `metrics.jsonl`,
`checkpoints/`, `images.json` (which were trained on), `config.json`, `environment.json`, and under `store/`
adversarial images and feature maps. A run that was stopped continues from its last checkpoint, with the same
batches as if it had not been.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from srdef.commands import cli
from srdef.detection import experiment
from srdef.evaluation import progress, schema
from srdef.reporting import detection_tables, gray_box_files, plots, style
from srdef.storage import files, store
from srdef.training import export


def main(config: Any, workdir: Path, overwrite: bool = False) -> None:
    """Run what is missing, write and print the tables."""
    config = cli.plain(config)
    schema.check("manifold", config)
    cli.refuse_another(workdir, config, overwrite)

    def report(record: dict[str, Any]) -> None:
        cli.console.print(
            f"step {record['step']:6d}  loss {record['loss']:.4f}  accuracy: train "
            f"{100 * record['train_accuracy']:.1f} %, test {100 * record['test_accuracy']:.1f} %",
            highlight=False,
        )

    with store.exclusive(workdir):
        result = experiment.run(config, workdir, progress.Reporter(cli.console), report)
        files.write_atomically(workdir / "manifold.md", detection_tables.to_markdown(result))
        files.write_atomically(workdir / "manifold.json", detection_tables.to_json(result) + "\n")
        environment = files.canonical_json(gray_box_files.environment()) + "\n"
        files.write_atomically(workdir / "environment.json", environment)
        figure = plots.training_figure(export.read_metrics(workdir / "metrics.jsonl"), "manifold classifier")
        style.save(figure, workdir / "curves")
    cli.console.print(Markdown(detection_tables.to_markdown(result)))
    cli.console.print(f"Tables, curves and checkpoints: {workdir}")


def run(options: argparse.Namespace) -> None:
    main(options.config, options.workdir, options.overwrite)


COMMAND = cli.Command(run, schema="manifold", workdir=True)
