"""Choose images that a classifier gets right, as the paper does, and keep their list.

    srdef select-images --config=imagenet.py --count=5000 --selection=inception_v3.json

takes data set and classifier from a configuration of `srdef evaluate`, which then reads only these
images with `--config.dataset.selection=inception_v3.json`; docs/guides/your-data.md has an `imagenet.py`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from srdef import batching, models
from srdef.commands import cli
from srdef.datasets import base
from srdef.datasets.dataset import check_classes
from srdef.datasets.selection import Selection, select_correct
from srdef.errors import InputError
from srdef.evaluation.experiment import check_batch_size, naming_num_classes
from srdef.paths import expanded
from srdef.programs import jit
from srdef.storage.files import check_writable
from srdef.storage.fingerprint import digest


@jit
def _predict(classifier: Any, images: jax.Array) -> jax.Array:
    return classifier(images).argmax(axis=-1)


def select(config: dict[str, Any], count: int) -> Selection:
    """The choice of `count` images for `config`'s data set and classifier, with its seed."""
    options = dict(config["dataset"])
    name, size = options.pop("name"), options.pop("size", None)
    for part in ("offset", "limit", "selection"):
        if options.pop(part, None):
            raise InputError(f"config.dataset.{part} has no place here: images are drawn from the whole set")
    batch_size = check_batch_size(config)
    source = base.open_source(name, size, **options)
    specification = dict(config["classifier"])
    classifier = models.create(specification.pop("name"), **specification)
    if not getattr(classifier, "num_classes", 0):
        raise InputError(f"model {config['classifier']['name']!r} is not a classifier")
    known, model = len(source.class_names), config["classifier"]["name"]
    with naming_num_classes(config, classifier.num_classes):
        check_classes(known, source.least_classes, classifier.num_classes, name, model)

    def read(positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        dataset = base.read_positions(source, positions, size)
        return dataset.images, dataset.labels, dataset.names

    def predict(images: np.ndarray) -> np.ndarray:
        return batching.map_batches(_predict, (classifier,), (images,), batch_size=batch_size)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=cli.console) as bar:
        task = bar.add_task("classified correctly", total=count)
        tried, positions, names, labels = select_correct(
            predict,
            read,
            source.length,
            count=count,
            seed=config["seed"],
            batch_size=batch_size,
            progress=lambda tried, found: bar.update(task, completed=min(found, count)),
        )
    return Selection(
        dataset=name,
        size=size,
        crop=source.crop,
        classifier=config["classifier"]["name"],
        weights=digest(classifier),
        seed=config["seed"],
        tried=tried,
        positions=positions,
        names=names,
        labels=labels,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--count", metavar="NUMBER", type=int, default=5000, help="how many images to choose (5000)"
    )
    parser.add_argument("--selection", metavar="FILE.json", help="the file to write")


def run(options: argparse.Namespace) -> None:
    """Choose and write."""
    if not options.selection:
        raise InputError("say which file to write: --selection=FILE.json")
    output = expanded(options.selection)
    check_writable(output)  # before the work, not after it
    selection = select(options.config, options.count)
    selection.save(output)
    share = len(selection.positions) / selection.tried
    cli.console.print(
        f"{len(selection.positions)} of the {selection.tried} images that were tried ({share:.1%}): {output}",
        highlight=False,
    )


COMMAND = cli.Command(run, schema="evaluation", options=add_options)
