"""Measure how robust a model is: its accuracy under attacks, at several radii.

    srdef attack --model=mine.py:build --data=cifar10 --attacks=autoattack --epsilons=2/255,8/255
    srdef attack --model=efficientnet_lite0 --data=imagenet_samples --attacks=apgd,square --epsilons=1/255

Does what `srdef.evaluate_robustness` does, and prints its table; with `--output` it also leaves the table as
CSV and Markdown, and a plot of accuracy against ε. Accuracy counts all images.

`--trace` beside it leaves what the attacks did on their way: margin, loss and success before the first step
and after each, as a picture (`trace.png`) and for each image that they attacked (`trace.csv`). It takes one
prediction more for each step.

The model, each attack, the defense and the data are names, with options behind a colon:
`pgd:steps=40,restarts=2`. A name is a registered one, or FILE.py:FUNCTION or MODULE:FUNCTION of your own:
`mine.py:build:width=3`. Registered models come with their trained weights, where there are some. The data may
also be a folder of images, or an .npz file.
"""

import argparse
import re
import time
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from rich.table import Table

from srdef import attacks, batching, datasets, models
from srdef.attacks.arithmetic import Arithmetic
from srdef.commands import cli
from srdef.commands.specifications import data_specification, radii, specification, specifications
from srdef.datasets import Dataset
from srdef.defenses import Defense
from srdef.errors import InputError
from srdef.evaluation.experiment import make_defense
from srdef.evaluation.plain_data import LARGEST_SEED
from srdef.keys import of_seed
from srdef.paths import expanded
from srdef.programs import jit
from srdef.reporting import gray_box_files
from srdef.reporting.robust_accuracy import RobustAccuracy, radius
from srdef.robustness import evaluate_robustness
from srdef.storage import files
from srdef.weights import catalog

# Data sets whose images have many sizes: they are read at the size of the model, if it has one.
_MANY_SIZES = ("folder", "imagenet2012", "imagenet_samples", "nips2017", "tfds")
# Data sets that have as many classes as the model, if nothing else is said.
_OF_ANY_CLASSES = ("crops", "folder")


def make_model(entry: dict[str, Any]) -> Any:
    """The model; a registered one with its trained weights, if nothing else is said."""
    options = dict(entry)
    name = options.pop("name")
    if name in models.list_names() and not {"pretrained", "weights"} & set(options):
        options["pretrained"] = name in catalog.CATALOG or bool(catalog.variants(name))
    model = models.create(name, **options)
    if not hasattr(model, "num_classes"):
        raise InputError(f"model {name!r} is not a classifier")
    return model


def load(entry: dict[str, Any], limit: int | None, model: Any, model_name: str) -> Dataset:
    """The images, at the size of the model where they have many sizes; InputError for other classes."""
    options = dict(entry)
    name = options.pop("name")
    if limit is not None:
        options["limit"] = limit
    classes = model.num_classes
    if name in _OF_ANY_CLASSES and classes:
        options.setdefault("num_classes", classes)
    size = getattr(model, "image_size", None)
    if name in _MANY_SIZES and size:
        options.setdefault("size", size)
    with cli.console.status("reading images") as status:
        dataset = datasets.load(
            name, **options, progress=lambda done, total: status.update(f"reading images: {done} of {total}")
        )
    # A model may know its classes only when it sees images.
    return dataset.of_model(classes, name, model_name) if classes else dataset


@jit
def _predict(model: Any, images: jax.Array) -> jax.Array:
    return model(images).argmax(axis=-1)


def label(model: Any, dataset: Dataset, batch_size: int) -> np.ndarray:
    """The labels; where there are none, what the model predicts for the clean image."""
    unknown = dataset.labels < 0
    if not unknown.any():
        return dataset.labels
    cli.console.print(f"{unknown.sum()} images without a label: the model's own prediction is their label")
    predicted = batching.map_batches(_predict, (model,), (dataset.images,), batch_size=batch_size)
    return np.where(unknown, predicted, dataset.labels).astype(np.int32)


def to_rich(result: RobustAccuracy) -> Table:
    """The table of accuracies: over all images, and under each in brackets its interval."""
    header, _, *rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in result.to_markdown().splitlines()
        if line.startswith("|")
    ]
    table = Table(header[0])
    for name in header[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def measure(
    model: Any,
    dataset: Dataset,
    labels: np.ndarray,
    config: dict[str, Any],
    defense: Defense | None,
    trace: bool = False,
) -> RobustAccuracy:
    """Run the attacks, and say how far they are."""
    started = time.monotonic()
    with cli.console.status("clean images") as status:

        def on_batch(name: str, epsilon: float, finished: int, count: int) -> None:
            status.update(f"{name}, ε = {radius(epsilon, config['norm'])}: {finished} of {count} images")

        def progress(name: str, epsilon: float, accuracy: float) -> None:
            spent = time.monotonic() - started
            at = f"{name}, ε = {radius(epsilon, config['norm'])}"
            cli.console.print(f"{at}: accuracy {accuracy:.1%} ({spent:.0f} s)", highlight=False)

        return evaluate_robustness(
            model,
            dataset.images,
            labels,
            config["attacks"],
            config["epsilons"],
            config["norm"],
            key=of_seed(config["seed"]),
            defense=defense,
            threat=config["threat"],
            draws=config["draws"],
            targets=config.get("targets"),
            ids=dataset.ids,
            batch_size=min(config["batch_size"], len(dataset)),
            arithmetic=config.get("arithmetic", "float32"),
            trace=trace,
            progress=progress,
            on_batch=on_batch,
        )


def write(folder: Path, config: dict[str, Any], result: RobustAccuracy) -> None:
    """Table, plot, traces if there are some, and what they were made with."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} ({error.strerror})") from None
    if (folder / "config.json").is_file():  # it comes last: with it the rest is complete
        (folder / "config.json").unlink()
    environment = files.canonical_json(gray_box_files.environment(config.get("arithmetic"))) + "\n"
    files.write_atomically(folder / "environment.json", environment)
    result.to_csv(folder / "robustness.csv")
    files.write_atomically(folder / "robustness.md", result.to_markdown())
    result.plot(folder / "robustness.png")
    for name in ("trace.csv", "trace.png"):  # those of a run before this one
        (folder / name).unlink(missing_ok=True)
    if result.traces:
        result.trace_to_csv(folder / "trace.csv")
        result.plot_trace(folder / "trace.png")
    files.write_atomically(folder / "config.json", files.canonical_json(config) + "\n")
    cli.console.print(f"Table, plot and settings: {folder}", highlight=False, soft_wrap=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="the model: registered, or FILE.py:FUNCTION")
    parser.add_argument(
        "--data", metavar="NAME", help="the images: a data set, FILE.py:FUNCTION, a folder, or an .npz file"
    )
    parser.add_argument(
        "--attacks", metavar="NAMES", default="apgd", help="with commas between them (default: apgd)"
    )
    parser.add_argument(
        "--epsilons", metavar="NUMBERS", default="8/255", help="rising radii of [0, 1] (default: 8/255)"
    )
    parser.add_argument("--norm", choices=("linf", "l2", "l1"), default="linf", help="default: linf")
    parser.add_argument(
        "--defense", metavar="NAMES", help="stands before the model; several with + between them"
    )
    parser.add_argument(
        "--threat",
        choices=("white_box", "gray_box"),
        default="white_box",
        help="whether the attacker knows the defense (default: white_box)",
    )
    parser.add_argument(
        "--targets",
        choices=("least_likely", "random", "second"),
        help="the class that attacks aim at (default: any but the label)",
    )
    parser.add_argument(
        "--draws", metavar="NUMBER", type=int, default=20, help="of a random defense, in each step (20)"
    )
    parser.add_argument("--limit", metavar="NUMBER", type=int, help="take the first images (default: all)")
    parser.add_argument(
        "--batch_size", metavar="NUMBER", type=int, default=100, help="images at a time (100)"
    )
    parser.add_argument(
        "--arithmetic",
        choices=get_args(Arithmetic),
        default="float32",
        help="of the attacks' steps; all that is reported is computed in float32 (default: float32)",
    )
    parser.add_argument("--seed", metavar="NUMBER", type=int, default=0, help="of all that is random (0)")
    parser.add_argument("--output", metavar="FOLDER", help="leave CSV, Markdown and a plot here")
    parser.add_argument(
        "--trace", action="store_true", help="leave also margin, loss and success at each step there"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the results of other settings in this folder"
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, as plain data; InputError for what it must not say."""
    for name in ("model", "data"):
        if not getattr(options, name):
            raise InputError(f"say which {name}: --{name}=NAME, or --{name}=FILE.py:FUNCTION of your own")
    for name, least in (("limit", 1), ("batch_size", 1), ("draws", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, not {value}")
    if options.seed > LARGEST_SEED:
        raise InputError(f"--seed must be at most {LARGEST_SEED}, not {options.seed}")
    steps = [specification(part, "defense") for part in (options.defense or "").split("+") if part]
    return {
        "model": specification(options.model, "model"),
        "data": data_specification(options.data),
        "attacks": specifications(options.attacks, "attacks"),
        "epsilons": radii(options.epsilons),
        "norm": options.norm,
        "defense": steps,
        "threat": options.threat,
        "draws": options.draws,
        "limit": options.limit,
        "batch_size": options.batch_size,
        "seed": options.seed,
        **({"targets": options.targets} if options.targets else {}),
        # What results of older settings do not say.
        **({"arithmetic": options.arithmetic} if options.arithmetic != "float32" else {}),
    }


def run(options: argparse.Namespace) -> None:
    """Make everything, attack, print and write."""
    config = settings(options)
    if options.trace and not options.output:
        raise InputError("--trace leaves a picture and a table: say where, --output=FOLDER")
    folder = expanded(options.output) if options.output else None
    if folder is not None:
        cli.refuse_another(folder, config, options.overwrite, option="--output")
        files.check_writable(folder / "config.json")
    for entry in config["attacks"]:  # before anything large is loaded
        attacks.REGISTRY.builder(entry["name"])
    model = make_model(config["model"])
    defense = make_defense(config["defense"], model) if config["defense"] else None
    dataset = load(config["data"], config["limit"], model, config["model"]["name"])
    labels = label(model, dataset, min(options.batch_size, len(dataset)))
    cli.console.print(f"{len(dataset)} images of {'x'.join(map(str, dataset.images.shape[1:]))}")
    result = measure(model, dataset, labels, config, defense, options.trace)
    if options.trace and not result.traces:
        cli.console.print("no image was attacked, as none is classified correctly: there is no trace")
    cli.console.print(to_rich(result))
    cli.console.print(result.to_markdown().splitlines()[-1], highlight=False)
    if folder is not None:
        write(folder, config, result)


COMMAND = cli.Command(run, options=add_options)
