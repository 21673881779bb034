"""Train all super-resolution networks, one after the other, and export them with their cards.

    srdef train-all --train_folder=DIV2K_train_HR --validation_folder=Set5 \\
        --test_folder=Set5 --test_folder=Set14 --minutes=20 \\
        --workdir=workdir/train_all --weights_folder=srdef/weights

`--minutes` is one number, or one for each of `--networks`. In `--weights_folder` every network leaves
NAME.safetensors and NAME.md as soon as it is done. Start the same command again after a kill: what is
finished is kept, and the rest continues from its last checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from srdef import models
from srdef.commands import cli, configuration, evaluate_sr, train_sr
from srdef.configs import train_edsr
from srdef.errors import InputError
from srdef.evaluation import schema
from srdef.paths import expanded
from srdef.storage import files
from srdef.training import patches

NETWORKS = ("baseline_x2", "baseline_x4", "baseline_x3", "srresnet_x2", "srgan_x2")
# Which network each one starts from.
PARENTS = {"baseline_x3": "baseline_x2", "baseline_x4": "baseline_x2", "srgan_x2": "srresnet_x2"}
PERCEPTUAL = ("vgg19", "squeezenet")


def add_options(parser: argparse.ArgumentParser) -> None:
    def words(text: str) -> list[str]:
        return text.split(",")

    def several(name: str, metavar: str, text: str) -> None:
        parser.add_argument(
            name, metavar=metavar, action="append", default=[], help=f"{text}; may be given again"
        )

    parser.add_argument(
        "--networks",
        metavar="NAME,NAME",
        type=words,
        default=list(NETWORKS),
        help=f"which, in this order, of: {', '.join(NETWORKS)} (all)",
    )
    parser.add_argument(
        "--minutes",
        metavar="NUMBER,NUMBER",
        type=words,
        default=["20"],
        help="for each network, or for all of them (20); 0: the recipe's steps",
    )
    parser.add_argument("--train_folder", metavar="FOLDER", help="high-resolution images, or tfds:div2k")
    parser.add_argument(
        "--validation_folder", metavar="FOLDER", default="", help="looked at now and then; chooses no weights"
    )
    several("--test_folder", "FOLDER", "for the cards and the last table")
    parser.add_argument(
        "--weights_folder", metavar="FOLDER", help="for weights and cards; default: WORKDIR/weights"
    )
    parser.add_argument(
        "--perceptual", choices=PERCEPTUAL, default="vgg19", help="whose features an SRGAN compares (vgg19)"
    )
    parser.add_argument(
        "--data", metavar="TEXT", default="", help="for the cards: what the training images are"
    )
    parser.add_argument(
        "--licence", metavar="TEXT", default="", help="for the cards: the terms of the training images"
    )
    several("--set", "FIELD=VALUE", "a field of every network's configuration, as batch_size=32")


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


def configure(
    network: str, options: argparse.Namespace, workdir: Path, output: Path, minutes: float
) -> ConfigDict:
    """The GPU recipe of `network` with this command's options."""
    squeezenet = network.startswith("srgan") and options.perceptual == "squeezenet"
    config = cli.plain(train_edsr.get_config(f"{network},gpu" + (",squeezenet" if squeezenet else "")))
    config["train_folder"] = options.train_folder
    config["validation_folder"] = options.validation_folder
    config["test_folders"] = options.test_folder
    config["minutes"] = minutes
    config["data"] = options.data or config["data"]
    config["licence"] = options.licence or config["licence"]
    parent = PARENTS.get(network)
    if parent:
        name = train_edsr.get_config(parent).network
        file = workdir / parent / f"{name}.safetensors"
        if not file.exists() and (output / f"{name}.safetensors").exists():
            file = output / f"{name}.safetensors"
        config["initial_weights"] = str(file)
    configuration.apply(config, [f"config.{setting}" for setting in options.set])
    schema.check("training", config)
    return ConfigDict(config)


def check(networks: list[str], configs: dict[str, ConfigDict], folders: list[str]) -> None:
    """Whether everything that is needed late is there now: before hours of training, not after."""
    for number, network in enumerate(networks):
        config, parent = configs[network], PARENTS.get(network)
        if parent and parent not in networks[:number] and not expanded(config.initial_weights).exists():
            raise InputError(
                f"{network} starts from {parent}: train that before, or put its weights at "
                f"{config.initial_weights}"
            )
        if config.loss == "srgan":
            try:
                models.create(config.perceptual.network, pretrained=True)
            except InputError as error:
                raise InputError(f"{network}: {error}; --perceptual=squeezenet needs no download") from None
    for folder in folders:
        if folder:
            patches.read_folder(folder, held_out=True)


def main(options: argparse.Namespace, workdir: Path, output: Path) -> None:
    """Train what is not yet trained, then show how good all are."""
    networks = options.networks
    for network in networks:
        if network not in NETWORKS:
            raise InputError(f"unknown network {network!r}; choose from: {', '.join(NETWORKS)}")
    minutes = minutes_of(networks, options.minutes)
    configs = {name: configure(name, options, workdir, output, minutes[name]) for name in networks}
    # The same for all, as those that `--set` may name.
    every = configs[networks[0]]
    train_folder, test_folders = every.train_folder, list(every.test_folders)
    images = patches.digest_of_folder(train_folder)
    for network, config in configs.items():  # also of what is finished and would only be copied
        train_sr.check_workdir(config, workdir / network, images)
    check(networks, configs, [every.validation_folder, *test_folders])
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {error.strerror}") from None
    photographs: list[np.ndarray] = []
    for network, config in configs.items():
        written = [workdir / network / f"{config.network}{suffix}" for suffix in (".safetensors", ".md")]
        if written[1].exists():  # it is written last
            # Its parent may have been trained anew.
            train_sr.check_workdir(config, workdir / network, images)
            cli.console.print(f"{network}: finished before")
        else:
            photographs = photographs or patches.read_folder(train_folder)
            train_sr.main(config, workdir / network, photographs, images=images)
        for file in written:
            files.write_atomically(output / file.name, file.read_bytes())
    if test_folders:
        trained = {
            config.network: evaluate_sr.load(f"{config.network}={output / config.network}.safetensors")
            for config in configs.values()
        }
        rows = evaluate_sr.evaluate(trained, test_folders)
        files.write_atomically(workdir / "quality.md", evaluate_sr.markdown(rows))
        files.write_atomically(workdir / "quality.json", evaluate_sr.as_json(rows))
        cli.console.print(evaluate_sr.markdown(rows), soft_wrap=True)
    cli.console.print(f"Weights and cards: {output}")


def run(options: argparse.Namespace) -> None:
    if not options.train_folder:
        raise InputError("say what to train on: --train_folder=FOLDER, or tfds:div2k")
    main(options, options.workdir, expanded(options.weights_folder or options.workdir / "weights"))


COMMAND = cli.Command(run, workdir=True, options=add_options)
