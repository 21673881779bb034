"""Train a super-resolution network and export its weights with a card.

    python -m experiments.train_sr --config=configs/train_edsr.py:small_x2 \\
        --config.train_folder=DIV2K_train_HR --config.validation_folder=Set5 --workdir=workdir/small_x2

An SRGAN starts from a trained SRResNet:

    python -m experiments.train_sr --config=configs/train_edsr.py:srgan_x2 \\
        --config.initial_weights=workdir/srresnet_x2/srresnet_x2.safetensors \\
        --config.train_folder=DIV2K_train_HR --workdir=workdir/srgan_x2

Leaves in the workdir: `NETWORK.safetensors` (averaged weights), `NETWORK.md` (their card),
`metrics.jsonl`, `curve.png` and `checkpoints/`. A run that was stopped continues from its last
checkpoint, with the same batches as if it had not been.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import cli
from srdef import models
from srdef.errors import InputError
from srdef.evaluation import store
from srdef.training import export, srgan, super_resolution
from srdef.weights import loading


def main(config: ConfigDict, workdir: Path) -> None:
    """Train, then export."""
    with store.exclusive(workdir):
        weights = config.initial_weights or None
        network = models.create(config.network, seed=config.seed, weights=weights)
        if not hasattr(network, "scale"):
            raise InputError(f"model {config.network!r} is not a super-resolution network")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=cli.console) as progress:
            task = progress.add_task(config.network, total=config.steps)

            def report(record: dict[str, Any]) -> None:
                psnr = f"  PSNR {record['psnr']:.2f} dB" if "psnr" in record else ""
                speed = record["images_per_second"]
                progress.update(
                    task,
                    completed=record["step"],
                    description=f"{config.network}  loss {record['loss']:.4f}  {speed:.0f} images/s",
                )
                if psnr:
                    progress.console.print(f"step {record['step']:7d}  loss {record['loss']:.5f}{psnr}")

            trainer = srgan if config.loss == "srgan" else super_resolution
            network = super_resolution.train(network, config, workdir, report, trainer.create_trainer)
        exported = workdir / f"{config.network}.safetensors"
        loading.save_safetensors(network, exported)
        export.save_curve(workdir / "metrics.jsonl", workdir / "curve.png", config.network, config.loss)
        store.write_atomically(
            workdir / f"{config.network}.md", export.card(network, cli.plain(config), exported)
        )
    cli.console.print(f"Weights, card and curve: {workdir}")


if __name__ == "__main__":
    cli.run(main)
