"""Train a super-resolution network and export its weights with a card.

    srdef train-sr train_edsr:small_x2 \\
        --config.train_folder=DIV2K_train_HR --config.validation_folder=Set5 --workdir=workdir/small_x2

On a GPU, in as many steps as fit into 20 minutes:

    srdef train-sr train_edsr:baseline_x2,gpu --config.minutes=20.0 \\
        --config.train_folder=DIV2K_train_HR --config.validation_folder=Set5 --workdir=workdir/baseline_x2

EDSRs for x3 and x4 start from one for x2, and an SRGAN from an SRResNet: --config.initial_weights=FILE.
`srdef train-all` trains all of them, one after the other.

Leaves in the workdir: `NETWORK.safetensors` (averaged weights), `NETWORK.md` (their card),
`metrics.jsonl`, `curve.png`, `config.json` and `checkpoints/`. A run that was stopped continues from its
last checkpoint, with the same batches as if it had not been; with another configuration it is refused.

The batch is spread over the devices of many processes by `--coordinator`, `--processes` and `--process`, or
`--distributed`.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from srdef import models
from srdef.commands import cli, processes
from srdef.configs import train_edsr
from srdef.errors import InputError
from srdef.evaluation.processes import ALONE, Processes
from srdef.models.registry import without_weights
from srdef.paths import expanded
from srdef.storage import files
from srdef.training import budget, export, quality, srgan, super_resolution, together
from srdef.training.patches import count_shared, digest_of_folder, read_folder, short_names, warn_of_shared

# What does not change the weights, or is named by `minutes`' result.
_NOT_IN_COMMAND = ("recipe", "minutes", "data", "licence", "test_folders")
# Of each record of a training's log, what the number of its steps and its card are made of.
_MEASURED = ("images_per_second", "seconds")
_PATHS = ("train_folder", "validation_folder", "initial_weights")
# What an SRGAN has beside the fields of every training.
_OF_SRGAN = ("loss_weights", "discriminator_features", "discriminator_hidden", "perceptual")
# What may change between a run and its continuation: names, and how often something is looked at or kept.
_FREE = ("recipe", "data", "licence", "test_folders", "evaluate_every", "checkpoint_every")


def check_fields(config: ConfigDict) -> None:
    """InputError for what would only be missed when the training is over, or mean nothing."""
    for field in _OF_SRGAN:
        if config.loss == "srgan" and field not in config:
            raise InputError(f"field config.{field} is missing, which the loss srgan needs")
        if config.loss != "srgan" and field in config:
            raise InputError(f"config.{field} means nothing for the loss {config.loss}, only for srgan")
    try:
        command(config)
    except InputError as error:
        raise InputError(f"config.recipe is no argument of configs/train_edsr.py: {error}") from None


def command(config: ConfigDict) -> str:
    """The command that trains the same weights, with every value that is not the recipe's, paths by name."""
    standard = cli.plain(train_edsr.get_config(config.recipe))
    words = [f"python -m experiments.train_sr --config=configs/train_edsr.py:{config.recipe}"]
    for field, given in cli.plain(config).items():
        values = given if isinstance(given, dict) else {"": given}
        for part, value in values.items():
            usual = standard.get(field, {})
            usual = usual.get(part) if part and isinstance(usual, dict) else usual
            if value != usual and field not in _NOT_IN_COMMAND:
                option = f"config.{field}.{part}" if part else f"config.{field}"
                words.append(f"--{option}={Path(value).name if field in _PATHS else value}")
    return " ".join([*words, "--workdir=…"])


def identity(config: ConfigDict) -> dict[str, Any]:
    """What the weights depend on, as plain data; of folders and files only the names."""
    fields = {field: value for field, value in cli.plain(config).items() if field not in _FREE}
    return {field: Path(value).name if field in _PATHS else value for field, value in fields.items()}


def _contents(config: ConfigDict, images: str | None) -> dict[str, str]:
    """Hashes of the training images and of the weights to start from, where they are files that are there."""
    found = {"train_folder": digest_of_folder(config.train_folder) if images is None else images}
    start = expanded(config.initial_weights)
    if start.is_file():
        found["initial_weights"] = hashlib.sha256(start.read_bytes()).hexdigest()
    return {field: value for field, value in found.items() if value}


def check_workdir(config: ConfigDict, workdir: Path, images: str | None = None) -> dict[str, Any]:
    """What `config.json` in `workdir` is to hold.

    `images` is the hash of the training images, where it is known (`digest_of_folder`).

    Raises
    ------
    InputError
        If it holds a training of another configuration, of other images or from other weights of the same
        name, or does not say of which. A run that was refused before its first step, for a folder that is not
        there, say, holds nothing.
    """
    wanted, now = identity(config), _contents(config, images)
    patterns = ("metrics.jsonl", "checkpoints/*", "*.safetensors")
    trained = any(file for pattern in patterns for file in workdir.glob(pattern))
    if not trained and not (workdir / "plan.json").exists():
        return {**wanted, "contents": now}
    try:
        kept = json.loads((workdir / "config.json").read_bytes())
    except FileNotFoundError:
        if trained:
            raise InputError(
                f"{workdir} holds a training without its config.json; choose another folder"
            ) from None
        return {**wanted, "contents": now}
    except (OSError, ValueError) as error:
        raise InputError(f"{workdir / 'config.json'} cannot be read ({error})") from None
    kept = kept if isinstance(kept, dict) else {}
    before = kept.pop("contents", None)
    before = before if isinstance(before, dict) else {}  # an older srdef did not note them
    for field in [*wanted, *kept]:
        if kept.get(field) != wanted.get(field):
            raise InputError(
                f"{workdir} holds a training of another configuration: {field} is {kept.get(field)!r} there "
                f"and {wanted.get(field)!r} here; choose another folder"
            )
    for field, value in now.items():
        if before.get(field, value) != value:
            raise InputError(
                f"{workdir} holds a training with another {field} of this name: what is in {config[field]} "
                "is not what was; choose another folder"
            )
    return {**wanted, "contents": {**before, **now}}


def _fitted(config: ConfigDict, workdir: Path, train: Any) -> ConfigDict:
    """`config` with the steps that fit into its minutes: measured the first time, then read.

    The plan is that of the configuration in `config.json`, which was compared before.
    """
    plan = workdir / "plan.json"
    steps = _planned(plan) if together.first() else 0
    steps = int(together.agreed(np.int32(steps)))
    if not steps:
        probe = budget.probe_steps(config)
        train(config, until=probe)
        if together.first():
            records = super_resolution.read_metrics(workdir / "metrics.jsonl", _MEASURED)
            if not records:
                raise InputError(
                    f"{workdir} holds checkpoints and no metrics.jsonl, which says how fast they were made: "
                    "choose another folder"
                )
            if records[-1]["step"] >= probe:  # or else the time was over before
                steps = budget.fit_steps(config, records)
                files.write_atomically(plan, json.dumps({"steps": steps}) + "\n")
        steps = int(together.agreed(np.int32(steps)))
    return budget.with_steps(config, steps) if steps else config


def _planned(plan: Path) -> int:
    """The steps that were planned before; 0 if they were not."""
    try:
        steps = json.loads(plan.read_bytes())["steps"]
        if type(steps) is not int or not 0 < steps < 2**31:
            raise ValueError(f"steps is {steps!r:.60}")
        return steps
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{plan} is damaged ({error}): delete it, and the steps are planned anew") from None


def train(config: ConfigDict, workdir: Path, photographs: list[np.ndarray]) -> tuple[Any, ConfigDict]:
    """The trained network, and the configuration with the number of steps that was planned."""
    create = srgan.create_trainer if config.loss == "srgan" else super_resolution.create_trainer
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=cli.console) as progress:
        task = progress.add_task(config.network, total=config.steps)

        def report(record: dict[str, Any]) -> None:
            speed, busy = record["images_per_second"], record["busy"]
            progress.update(
                task,
                completed=record["step"],
                description=f"{config.network}  loss {record['loss']:.4f}  {speed:.0f} images/s, "
                f"device busy {busy:.0%}",
            )
            if "psnr" in record:
                line = f"step {record['step']:7d}  loss {record['loss']:.5f}  PSNR {record['psnr']:.2f} dB"
                progress.console.print(line)

        def run(config: ConfigDict, until: int | None = None) -> Any:
            progress.update(task, total=config.steps)
            network = super_resolution.initial_network(config)
            return super_resolution.train(
                network, config, workdir, report, create, photographs=photographs, until=until
            )

        if config.minutes:
            config = _fitted(config, workdir, run)
        return run(config), config


def _tested(config: ConfigDict) -> list[str]:
    """The folders that the card gives the quality on."""
    return [folder for folder in config.test_folders or [config.validation_folder] if folder]


def _seen(config: ConfigDict, photographs: list[np.ndarray]) -> dict[str, tuple[int, int]]:
    """By the short name of each tested folder, how many of its images are trained on, and how many it has.

    A warning says so; of the validation's images the training warns itself.
    """
    folders, found = _tested(config), {}
    for name, folder in zip(short_names(folders), folders, strict=True):
        tested = read_folder(folder, held_out=True)
        found[name] = count_shared(photographs, tested), len(tested)
        if folder != config.validation_folder:
            warn_of_shared(folder, *found[name])
    return found


def _check_tested(config: ConfigDict) -> None:
    """InputError for an image that is too small to be measured, before anything is trained."""
    own = ":" in config.network
    scale = (models.create if own else without_weights)(config.network, **config.network_options).scale
    for folder in _tested(config):
        quality.check_sizes(read_folder(folder, held_out=True), scale, folder)


def main(
    config: ConfigDict,
    workdir: Path,
    photographs: list[np.ndarray] | None = None,
    members: Processes = ALONE,
    images: str | None = None,
) -> None:
    """Train, then export; `photographs` instead of reading `config.train_folder`, and `images` their hash.

    Raises
    ------
    InputError
        As `super_resolution.train`, and if the workdir holds a training of another configuration, or a field
        belongs to another loss or recipe; for an image of the tested folders that is too small.
    """
    check_fields(config)
    _check_tested(config)
    with members.hold(workdir):
        if members.first:
            described = check_workdir(config, workdir, images)
            files.write_atomically(workdir / "config.json", files.canonical_json(described) + "\n")
        photographs = photographs or read_folder(config.train_folder)
        seen = _seen(config, photographs) if members.first else {}
        trained, config = train(config, workdir, photographs)
        if not members.first:
            return
        exported = workdir / f"{config.network}.safetensors"
        validation = read_folder(config.validation_folder, held_out=True) if config.validation_folder else []
        stored = export.save_weights(trained, exported, config.storage, validation)
        export.save_curve(workdir / "metrics.jsonl", workdir / "curve.png", config.network, config.loss)
        # What is measured is the file.
        network = models.create(config.network, weights=exported, **config.network_options)
        measured = {}
        folders = _tested(config)
        for name, folder in zip(short_names(folders), folders, strict=True):
            measured[name] = quality.beside_bicubic(network, read_folder(folder, held_out=True))
        records = super_resolution.read_metrics(workdir / "metrics.jsonl", _MEASURED)
        text = export.card(
            network, cli.plain(config), exported, command(config), records, measured, stored, seen
        )
        files.write_atomically(workdir / f"{config.network}.md", text)
    cli.console.print(f"Weights, card and curve: {workdir}")


def run(options: argparse.Namespace) -> None:
    with processes.together(options, "train-sr", options.config) as members:
        main(ConfigDict(options.config), options.workdir, members=members)


COMMAND = cli.Command(run, schema="training", workdir=True, options=processes.add_options, overwrites=False)
