"""Train a classifier of clean against adversarial images, and ask it about defended ones (section 4.1).

    python -m experiments.manifold --config=configs/manifold.py:lite0 \\
        --config.dataset.path=NIPS2017 --workdir=workdir/manifold

Leaves in the workdir: `manifold.md` and `manifold.json` (the tables), `curves.png`, `metrics.jsonl`,
`checkpoints/`, `images.json` (which were trained on), `config.json`, `environment.json`, and under `store/`
attacked images and feature maps. A run that was stopped continues from its last checkpoint, with the same
batches as if it had not been.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.markdown import Markdown

from experiments import cli
from srdef.detection import experiment
from srdef.evaluation import progress
from srdef.reporting import gray_box_files, plots, style
from srdef.storage import files, store
from srdef.training import export


def main(config: ConfigDict, workdir: Path) -> None:
    """Run what is missing, write and print the tables."""

    def report(record: dict[str, Any]) -> None:
        cli.console.print(
            f"step {record['step']:6d}  loss {record['loss']:.4f}  accuracy: train "
            f"{100 * record['train_accuracy']:.1f} %, test {100 * record['test_accuracy']:.1f} %",
            highlight=False,
        )

    with store.exclusive(workdir):
        result = experiment.run(cli.plain(config), workdir, progress.Reporter(cli.console), report)
        files.write_atomically(workdir / "manifold.md", result.to_markdown())
        files.write_atomically(workdir / "manifold.json", result.to_json() + "\n")
        environment = files.canonical_json(gray_box_files.environment()) + "\n"
        files.write_atomically(workdir / "environment.json", environment)
        figure = plots.training_figure(export.read_metrics(workdir / "metrics.jsonl"), "manifold classifier")
        style.save(figure, workdir / "curves")
    cli.console.print(Markdown(result.to_markdown()))
    cli.console.print(f"Tables, curves and checkpoints: {workdir}")


if __name__ == "__main__":
    cli.run(main)
