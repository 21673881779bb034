"""Train a classifier of clean against adversarial images, and ask it about defended ones (section 4.1).

    python -m experiments.manifold --config=configs/manifold.py:lite0 \\
        --config.dataset.path=NIPS2017 --workdir=workdir/manifold
    python -m experiments.manifold --config=configs/manifold.py:study,lite0,160 --workdir=workdir/study

Leaves in the workdir: `manifold.md` and `manifold.json` (the tables), `curves.png`, `metrics.jsonl`,
`checkpoints/`, `images.json` (which were trained on), `config.json`, `environment.json`, and under `store/`
adversarial images and feature maps. A run that was stopped continues from its last checkpoint, with the same
batches as if it had not been.

With `config.study` many detectors are trained on the same features, with more and more pairs and blocks; the
folder then has `study.md`, `study.json` and the figure `study.pdf` and `.png` beside `manifold.md` and
`manifold.json`, which are those of the best one, and a folder of `trainings/` for each.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from srdef.commands import cli
from srdef.detection import experiment, study
from srdef.evaluation import progress, schema
from srdef.reporting import detection_figure, detection_tables, gray_box_files, plots, style
from srdef.storage import files, store
from srdef.training import export


def main(config: Any, workdir: Path, overwrite: bool = False) -> None:
    """Run what is missing, write and print the tables."""
    config = cli.plain(config)
    schema.check("manifold", config)
    cli.refuse_another(workdir, config, overwrite)
    with store.exclusive(workdir):
        text = _study(config, workdir) if "study" in config else _one(config, workdir)
        environment = files.canonical_json(gray_box_files.environment()) + "\n"
        files.write_atomically(workdir / "environment.json", environment)
    cli.console.print(Markdown(text))
    cli.console.print(f"Tables, curves and checkpoints: {workdir}")


def _one(config: dict[str, Any], workdir: Path) -> str:
    """One training; returns its tables."""

    def report(record: dict[str, Any]) -> None:
        cli.console.print(
            f"step {record['step']:6d}  loss {record['loss']:.4f}  accuracy: train "
            f"{100 * record['train_accuracy']:.1f} %, test {100 * record['test_accuracy']:.1f} %",
            highlight=False,
        )

    result = experiment.run(config, workdir, progress.Reporter(cli.console), report)
    _write(workdir, result)
    figure = plots.training_figure(export.read_metrics(workdir / "metrics.jsonl"), "manifold classifier")
    style.save(figure, workdir / "curves")
    return detection_tables.to_markdown(result)


def _study(config: dict[str, Any], workdir: Path) -> str:
    """All trainings of a study; returns its tables."""

    def report(setting: study.Setting) -> None:
        cli.console.print(
            f"{setting.blocks} blocks, {setting.pairs:6d} pairs: accuracy "
            f"{100 * setting.accuracy.value:.1f} %, on the pairs trained on "
            f"{100 * setting.train_accuracy:.1f} %",
            highlight=False,
        )

    found = study.run(config, workdir, progress.Reporter(cli.console), report)
    _write(workdir, found.result)
    text = detection_tables.study_to_markdown(found)
    files.write_atomically(workdir / "study.md", text)
    files.write_atomically(workdir / "study.json", detection_tables.study_to_json(found) + "\n")
    side = config["dataset"].get("side") or config["dataset"].get("size")
    title = f"{config['classifier']['name']}, {side} pixels"
    style.save(detection_figure.study_figure(found, title), workdir / "study")
    return text


def _write(workdir: Path, result: experiment.Result) -> None:
    files.write_atomically(workdir / "manifold.md", detection_tables.to_markdown(result))
    files.write_atomically(workdir / "manifold.json", detection_tables.to_json(result) + "\n")


def run(options: argparse.Namespace) -> None:
    main(options.config, options.workdir, options.overwrite)


COMMAND = cli.Command(run, schema="manifold", workdir=True)
