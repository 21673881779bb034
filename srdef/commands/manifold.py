"""Train a classifier of clean against adversarial images, and ask it about defended ones (section 4.1).

    srdef manifold manifold:lite0 \\
        --config.dataset.path=NIPS2017 --workdir=workdir/manifold
    srdef manifold manifold:study,lite0,160 --workdir=workdir/study

Leaves in the workdir: `manifold.md` and `manifold.json` (the tables), `curves.png`, `metrics.jsonl`,
`checkpoints/`, `images.json` (which were trained on), `config.json`, `environment.json`, and under `store/`
adversarial images and feature maps. A run that was stopped continues from its last checkpoint, with the same
batches as if it had not been. Many processes share the attacks, and the trainings of a study, by
`--coordinator`, `--processes` and `--process`, or `--distributed`.

With `config.study` many detectors are trained on the same features, with more and more pairs and blocks; the
folder then has `study.md`, `study.json` and the figure `study.pdf` and `.png` beside `manifold.md` and
`manifold.json`, which are those of the best one, and a folder of `trainings/` for each.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from srdef.commands import cli, processes
from srdef.detection import experiment, study, sweep
from srdef.errors import warn
from srdef.evaluation import progress, schema
from srdef.evaluation.processes import ALONE, Processes
from srdef.reporting import detection_figure, detection_tables, gray_box_files, plots, style
from srdef.storage import files
from srdef.training import export


def main(config: Any, workdir: Path, overwrite: bool = False, members: Processes = ALONE) -> None:
    """Run what is missing, write and print the tables."""
    config = cli.plain(config)
    schema.check("manifold", config)
    cli.refuse_another(workdir, config, overwrite)
    with members.hold(workdir):
        reporter = progress.Reporter(cli.console, processes=members)
        text = (_study if "study" in config else _one)(config, workdir, reporter, overwrite)
        if text is None:
            return
        environment = files.canonical_json(gray_box_files.environment()) + "\n"
        files.write_atomically(workdir / "environment.json", environment)
    cli.console.print(Markdown(text))
    cli.console.print(f"Tables, curves and checkpoints: {workdir}")


def _one(config: dict[str, Any], workdir: Path, reporter: progress.Reporter, overwrite: bool) -> str | None:
    """One training; returns its tables, if this is the first process."""

    def report(record: dict[str, Any]) -> None:
        cli.console.print(
            f"step {record['step']:6d}  loss {record['loss']:.4f}  accuracy: train "
            f"{100 * record['train_accuracy']:.1f} %, test {100 * record['test_accuracy']:.1f} %",
            highlight=False,
        )

    result = experiment.run(config, workdir, reporter, report, overwrite)
    if result is None:
        return None
    _write(workdir, result)
    needed = ("loss", "train_accuracy", "test_accuracy")
    records = export.read_metrics(workdir / "metrics.jsonl", needed)
    if records:
        style.save(plots.training_figure(records, "manifold classifier"), workdir / "curves")
    else:
        warn(f"{workdir / 'metrics.jsonl'} holds no record of the training, so that no curves are drawn")
    return detection_tables.to_markdown(result)


def _study(config: dict[str, Any], workdir: Path, reporter: progress.Reporter, overwrite: bool) -> str | None:
    """All trainings of a study; returns its tables, if this is the first process."""

    def report(setting: sweep.Setting) -> None:
        cli.console.print(
            f"{setting.blocks} blocks, {setting.pairs:6d} pairs: accuracy "
            f"{100 * setting.accuracy.value:.1f} %, on the pairs trained on "
            f"{100 * setting.train_accuracy:.1f} %",
            highlight=False,
        )

    found = study.run(config, workdir, reporter, report, overwrite)
    if found is None:
        return None
    _write(workdir, found.result)
    text = detection_tables.study_to_markdown(found)
    files.write_atomically(workdir / "study.md", text)
    files.write_atomically(workdir / "study.json", detection_tables.study_to_json(found) + "\n")
    side = config["dataset"].get("side") or config["dataset"].get("size")
    title = config["classifier"]["name"] + (f", {side} pixels" if side else "")
    style.save(detection_figure.study_figure(found, title), workdir / "study")
    return text


def _write(workdir: Path, result: experiment.Result) -> None:
    files.write_atomically(workdir / "manifold.md", detection_tables.to_markdown(result))
    files.write_atomically(workdir / "manifold.json", detection_tables.to_json(result) + "\n")


def run(options: argparse.Namespace) -> None:
    with processes.of(options, "manifold", options.config) as members:
        main(options.config, options.workdir, options.overwrite, members)


COMMAND = cli.Command(run, schema="manifold", workdir=True, options=processes.add_options)
