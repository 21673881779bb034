"""Figure 1 of the paper: hidden features of images on their principal components."""

from pathlib import Path
from typing import Any

import numpy as np

from srdef import images
from srdef.datasets.crops import of_same_images
from srdef.detection import training
from srdef.detection.network import hidden_features
from srdef.errors import InputError
from srdef.evaluation.run import Run
from srdef.interpret import features, pca
from srdef.paths import expanded
from srdef.reporting import plots, scatter_html, style
from srdef.reporting.figure_parts import only_entry, start, title_of, write_numbers
from srdef.reporting.plots import PointSet
from srdef.storage.files import write_atomically


def _hidden(config: dict[str, Any], run: Run, pixels: np.ndarray) -> np.ndarray:
    """Features of the classifier, or of the trained manifold classifier in the folder `config.detector`."""
    size = run.experiment.batch_size
    if not config["detector"]:
        return features.last_hidden_layer(run.experiment.classifier, pixels, batch_size=size)
    detector = training.load(expanded(config["detector"]))
    return hidden_features(detector, images.from_uint8(images.to_uint8(pixels)), batch_size=size)


def unseen(config: dict[str, Any]) -> Run:
    """The run about the first `config.images` images that the detector, if any, was not trained on."""
    run = start(config)
    if config["detector"]:
        seen = training.trained_on(expanded(config["detector"]))
        run = run.select(~np.array(of_same_images(run.dataset.names, seen)))
    return run.select(slice(config["images"]))


def make(config: dict[str, Any], folder: Path) -> list[Path]:
    """Show the last hidden layer of clean, adversarial and defended images on their principal components.

    A manifold classifier is shown with images that it was not trained on.
    """
    attack, defense = only_entry(config, "attacks"), only_entry(config, "defenses")
    run = unseen(config)
    if len(run.dataset) < 2:
        which = " that the manifold classifier was not trained on" if config["detector"] else ""
        raise InputError(f"figure1: at least two images{which} are needed, not {len(run.dataset)}")
    versions = [run.dataset.images, run.pixels(attack), run.defended(attack, defense)]
    hidden = [_hidden(config, run, pixels) for pixels in versions]
    model = pca.fit(np.concatenate(hidden), 3)
    points = [np.asarray(model.transform(values)) for values in hidden]
    ratios = [float(ratio) for ratio in model.explained_variance_ratio]
    names = ["clean", f"adversarial ({attack})", f"defended ({defense})"]
    colours = [style.CLEAN, style.ADVERSARIAL, style.DEFENDED]
    sets = [
        PointSet(name, colour, values) for name, colour, values in zip(names, colours, points, strict=True)
    ]
    words = f"last hidden layer of {len(run.dataset)} images"
    if config["detector"]:
        words = (
            f"last hidden layer of the manifold classifier,\n{len(run.dataset)} images that it was not "
            "trained on"
        )
    title = title_of(run, words)
    figure = plots.scatter_3d(
        {"clean and adversarial": sets[:2], "clean and defended": [sets[0], sets[2]]}, ratios, title
    )
    written = style.save(figure, folder / "figure1")

    answers = [run.predict(pixels) for pixels in versions]
    classes = run.dataset.class_names
    taken_for = [[classes[prediction] for prediction in said] for said in answers]
    titles = [classes[label] for label in run.dataset.labels]
    page = folder / "figure1.html"
    write_atomically(
        page, scatter_html.scatter_page(sets, taken_for, titles, plots.axis_labels(ratios), title)
    )
    numbers = {
        "images": len(run.dataset),
        "explained_variance_ratio": ratios,
        "features": hidden[0].shape[1],
        "median_distance_to_own_clean_image": {
            "adversarial": features.relative_distance(hidden[1], hidden[0]),
            "defended": features.relative_distance(hidden[2], hidden[0]),
        },
        "median_distance_of_clean_images_to_the_nearest_other": features.nearest_distance(hidden[0]),
        "classified_correctly": {
            name: float(np.mean(said == run.dataset.labels))
            for name, said in zip(("clean", "adversarial", "defended"), answers, strict=True)
        },
    }
    return [*written, page, write_numbers(folder, "figure1", numbers)]
