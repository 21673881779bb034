"""Train all super-resolution networks, one after the other, and export them with their cards.

    python -m experiments.train_all --train_folder=DIV2K_train_HR --validation_folder=Set5 \\
        --test_folder=Set5 --test_folder=Set14 --minutes=20 \\
        --workdir=workdir/train_all --weights_folder=srdef/weights

`--minutes` is one number, or one for each of `--networks`. In `--weights_folder` every network leaves
NAME.safetensors and NAME.md as soon as it is done. Start the same command again after a kill: what is
finished is kept, and the rest continues from its last checkpoint.
"""

import ast
import shutil
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from configs import train_edsr
from experiments import cli, evaluate_sr, train_sr
from srdef import models
from srdef.errors import InputError
from srdef.storage import files
from srdef.training import patches

NETWORKS = ("baseline_x2", "baseline_x4", "baseline_x3", "srresnet_x2", "srgan_x2")
# Which network each one starts from.
PARENTS = {"baseline_x3": "baseline_x2", "baseline_x4": "baseline_x2", "srgan_x2": "srresnet_x2"}
PERCEPTUAL = ("vgg19", "squeezenet")

NAMES = flags.DEFINE_list("networks", list(NETWORKS), "Which, in this order, of: " + ", ".join(NETWORKS))
MINUTES = flags.DEFINE_list("minutes", ["20"], "For each network, or for all of them; 0: the recipe's steps.")
TRAIN = flags.DEFINE_string("train_folder", None, "Folder of high-resolution images, or tfds:div2k.")
VALIDATION = flags.DEFINE_string("validation_folder", "", "Looked at now and then; chooses no weights.")
TEST = flags.DEFINE_multi_string("test_folder", [], "For the cards and the last table; may be given again.")
OUTPUT = flags.DEFINE_string("weights_folder", None, "For weights and cards; default: WORKDIR/weights.")
FEATURES = flags.DEFINE_enum("perceptual", "vgg19", PERCEPTUAL, "Whose features an SRGAN compares.")
DATA = flags.DEFINE_string("data", "", "For the cards: what the training images are.")
LICENCE = flags.DEFINE_string("licence", "", "For the cards: the terms of the training images.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of every network's configuration, as batch_size=32.")


def minutes_of(networks: list[str], given: list[str]) -> dict[str, float]:
    """The minutes of each network."""
    try:
        minutes = [float(value) for value in given]
    except ValueError:
        raise InputError(f"minutes must be numbers, not {','.join(given)}") from None
    if len(minutes) == 1:
        minutes = minutes * len(networks)
    if len(minutes) != len(networks) or not all(0 <= value < np.inf for value in minutes):
        raise InputError(
            f"minutes must be one number from 0 up, or one for each of {len(networks)} networks, "
            f"not {','.join(given)}"
        )
    return dict(zip(networks, minutes, strict=True))


def configuration(network: str, workdir: Path, output: Path, minutes: float) -> ConfigDict:
    """The GPU recipe of `network` with this script's flags."""
    options = ",squeezenet" if network.startswith("srgan") and FEATURES.value == "squeezenet" else ""
    config = train_edsr.get_config(f"{network},gpu{options}")
    config.train_folder = TRAIN.value
    config.validation_folder = VALIDATION.value
    config.test_folders = tuple(TEST.value)
    config.minutes = minutes
    config.data = DATA.value or config.data
    config.licence = LICENCE.value or config.licence
    for setting in SET.value:
        field, _, text = setting.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        *path, name = field.split(".")
        part = config
        for step in path:
            part = part.get(step, ConfigDict())
        try:
            if name not in part:
                raise KeyError(name)
            part[name] = value
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"set {setting}: {network} has no such field, or it is of another kind"
            ) from None
    parent = PARENTS.get(network)
    if parent:
        name = train_edsr.get_config(parent).network
        config.initial_weights = str(workdir / parent / f"{name}.safetensors")
        if not Path(config.initial_weights).exists() and (output / f"{name}.safetensors").exists():
            config.initial_weights = str(output / f"{name}.safetensors")
    return config


def check(networks: list[str], configs: dict[str, ConfigDict]) -> None:
    """Whether everything that is needed late is there now: before hours of training, not after."""
    for number, network in enumerate(networks):
        config, parent = configs[network], PARENTS.get(network)
        if parent and parent not in networks[:number] and not Path(config.initial_weights).exists():
            raise InputError(
                f"{network} starts from {parent}: train that before, or put its weights at "
                f"{config.initial_weights}"
            )
        if config.loss == "srgan":
            try:
                models.create(config.perceptual.network, pretrained=True)
            except InputError as error:
                raise InputError(f"{network}: {error}; --perceptual=squeezenet needs no download") from None
    for folder in [VALIDATION.value, *TEST.value]:
        if folder:
            patches.read_folder(folder)


def main(workdir: Path, output: Path) -> None:
    """Train what is not yet trained, then show how good all are."""
    networks = list(NAMES.value)
    for network in networks:
        if network not in NETWORKS:
            raise InputError(f"unknown network {network!r}; choose from: {', '.join(NETWORKS)}")
    minutes = minutes_of(networks, MINUTES.value)
    configs = {name: configuration(name, workdir, output, minutes[name]) for name in networks}
    for network, config in configs.items():  # also of what is finished and would only be copied
        train_sr.check_workdir(config, workdir / network)
    check(networks, configs)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {error.strerror}") from None
    photographs: list[np.ndarray] = []
    for network, config in configs.items():
        written = [workdir / network / f"{config.network}{suffix}" for suffix in (".safetensors", ".md")]
        if written[1].exists():  # it is written last
            cli.console.print(f"{network}: finished before")
        else:
            photographs = photographs or patches.read_folder(str(TRAIN.value))
            train_sr.main(config, workdir / network, photographs)
        for file in written:
            shutil.copyfile(file, output / file.name)
    if TEST.value:
        trained = {
            config.network: evaluate_sr.load(f"{config.network}={output / config.network}.safetensors")
            for config in configs.values()
        }
        rows = evaluate_sr.evaluate(trained, TEST.value)
        files.write_atomically(workdir / "quality.md", evaluate_sr.markdown(rows))
        files.write_atomically(workdir / "quality.json", evaluate_sr.as_json(rows))
        cli.console.print(evaluate_sr.markdown(rows), soft_wrap=True)
    cli.console.print(f"Weights and cards: {output}")


def _run(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"unexpected argument {arguments[1]!r}; options are written --name=value")
    workdir = Path(str(cli.WORKDIR.value))
    main(workdir, Path(OUTPUT.value) if OUTPUT.value else workdir / "weights")


if __name__ == "__main__":
    for flag in ("train_folder", "workdir"):
        flags.mark_flag_as_required(flag)
    app.run(cli.guarded(_run), flags_parser=cli.parse)
