"""The paper's figures by name, computed from a configuration and written to a folder.

Figure 2 of the paper is a drawing without data. Every figure is written as PDF (vectors) and PNG, its
numbers as JSON.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from srdef import images
from srdef.detection.network import hidden_features
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, check_fields
from srdef.interpret import cam, features, pca, spectrum
from srdef.reporting import cases, plots, scatter_html, style
from srdef.reporting.cases import Cases
from srdef.reporting.plots import PointSet, View
from srdef.storage.files import canonical_json, without_nan, write_atomically

# The fields of each figure's configuration beside `figure` and those of `cases.SHARED`.
FIELDS: dict[str, tuple[str, ...]] = {
    "figure1": ("images", "detector"),
    "figure3": ("image", "cutoff"),
    "figure4": ("image", "block", "channels"),
    "figure5": ("images", "gains"),
    "figure6": ("images", "gains"),
    "spectra": ("images", "bins"),
}


def make(config: dict[str, Any], folder: Path) -> list[Path]:
    """Compute one figure and write it.

    Parameters
    ----------
    config : dict
        As in `configs/figures.py`.
    folder : Path
        Exists; receives `NAME.pdf`, `NAME.png`, `NAME.json`, and `figure1.html`.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        For unknown or missing fields, or values that do not fit.
    """
    name = config.get("figure")
    if name not in FIGURES:
        raise InputError(f"unknown figure {name!r}; choose from: {', '.join(FIGURES)}")
    check_fields(config, ("figure", *cases.SHARED, *FIELDS[name]))
    return FIGURES[name](config, folder)


def _one(config: dict[str, Any], field: str) -> str:
    """The label of the only attack or defense."""
    if len(config[field]) != 1:
        raise InputError(
            f"{config['figure']}: config.{field} must have one entry, not {len(config[field])}: "
            f"{', '.join(config[field])}"
        )
    return next(iter(config[field]))


def _numbers(folder: Path, name: str, numbers: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    write_atomically(path, canonical_json(without_nan(numbers)) + "\n")
    return path


def _title(found: Cases, words: str) -> str:
    return f"{found.experiment.classifier_name}, {words}, seed {found.experiment.seed}"


def relative_distance(values: np.ndarray, reference: np.ndarray) -> float:
    """The median over rows `(N, D)` of `|values - reference| / |reference|`."""
    norms = np.linalg.norm(reference, axis=1)
    return float(np.median(np.linalg.norm(values - reference, axis=1) / np.maximum(norms, 1e-12)))


def nearest_distance(points: np.ndarray) -> float:
    """The median over points `(N, D)` of the distance to the nearest other one, relative to its length."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(axis=1) / np.maximum(np.linalg.norm(points, axis=1), 1e-12)))


def _hidden(config: dict[str, Any], found: Cases, pixels: np.ndarray) -> np.ndarray:
    """Features of the classifier, or of the trained manifold classifier in the folder `config.detector`."""
    size = found.experiment.batch_size
    if not config["detector"]:
        return features.last_hidden_layer(found.experiment.classifier, pixels, batch_size=size)
    from srdef.detection import training  # here, as only this figure needs it, and only sometimes

    detector = training.load(Path(config["detector"]))
    return hidden_features(detector, images.from_uint8(images.to_uint8(pixels)), batch_size=size)


def _unseen(config: dict[str, Any]) -> Cases:
    """The first `config.images` images that the detector in `config.detector`, if any, was not trained on."""
    found = Cases.create(config)
    if config["detector"]:
        from srdef.detection import training  # as in `_hidden`

        seen = training.trained_on(Path(config["detector"]))
        found = found.select(np.array([name not in seen for name in found.dataset.names]))
    return found.select(slice(config["images"]))


def figure1(config: dict[str, Any], folder: Path) -> list[Path]:
    """Last hidden layer of clean, attacked and defended images on their principal components.

    A manifold classifier is shown with images that it was not trained on.
    """
    attack, defense = _one(config, "attacks"), _one(config, "defenses")
    found = _unseen(config)
    if len(found.dataset) < 2:
        which = " that the manifold classifier was not trained on" if config["detector"] else ""
        raise InputError(f"figure1: at least two images{which} are needed, not {len(found.dataset)}")
    versions = [found.dataset.images, found.attacked(attack), found.defended(attack, defense)]
    hidden = [_hidden(config, found, pixels) for pixels in versions]
    model = pca.fit(np.concatenate(hidden), 3)
    points = [np.asarray(model.transform(values)) for values in hidden]
    ratios = [float(ratio) for ratio in model.explained_variance_ratio]
    names = ["clean", f"adversarial ({attack})", f"defended ({defense})"]
    colours = [style.CLEAN, style.ADVERSARIAL, style.DEFENDED]
    sets = [
        PointSet(name, colour, values) for name, colour, values in zip(names, colours, points, strict=True)
    ]
    words = f"last hidden layer of {len(found.dataset)} images"
    if config["detector"]:
        words = (
            f"last hidden layer of the manifold classifier,\n{len(found.dataset)} images that it was not "
            "trained on"
        )
    title = _title(found, words)
    figure = plots.scatter_3d(
        {"attacked": sets[:2], "attacked, then defended": [sets[0], sets[2]]}, ratios, title
    )
    written = style.save(figure, folder / "figure1")

    answers = [found.predictions(pixels) for pixels in versions]
    classes = found.dataset.class_names
    taken_for = [[classes[prediction] for prediction in said] for said in answers]
    titles = [classes[label] for label in found.dataset.labels]
    axes = [f"component {i + 1} ({100 * ratio:.0f} %)" for i, ratio in enumerate(ratios)]
    page = folder / "figure1.html"
    write_atomically(page, scatter_html.scatter_page(sets, taken_for, titles, axes, title))
    numbers = {
        "images": len(found.dataset),
        "explained_variance_ratio": ratios,
        "features": hidden[0].shape[1],
        "median_distance_to_own_clean_image": {
            "adversarial": relative_distance(hidden[1], hidden[0]),
            "defended": relative_distance(hidden[2], hidden[0]),
        },
        "median_distance_of_clean_images_to_the_nearest_other": nearest_distance(hidden[0]),
        "classified_correctly": {
            name: float(np.mean(said == found.dataset.labels))
            for name, said in zip(("clean", "adversarial", "defended"), answers, strict=True)
        },
    }
    return [*written, page, _numbers(folder, "figure1", numbers)]


def _three_views(config: dict[str, Any]) -> tuple[Cases, list[View], str]:
    """Clean, attacked and recovered version of image number `config.image`, and words for a title."""
    attack, defense = _one(config, "attacks"), _one(config, "defenses")
    found = Cases.create(config)
    index = config["image"]
    if not isinstance(index, int) or not 0 <= index < len(found.dataset):
        raise InputError(
            f"{config['figure']}: config.image must be 0 to {len(found.dataset) - 1} (the images that are "
            f"classified correctly), not {index!r}"
        )
    found = found.select(slice(index, index + 1))
    views = [
        *found.views("clean", found.dataset.images),
        *found.views(f"attacked ({attack})", found.attacked(attack)),
        *found.views(f"recovered ({defense})", found.defended(attack, defense)),
    ]
    return found, views, found.dataset.names[0]


def scaled_spectrum(image: np.ndarray, scale: float) -> np.ndarray:
    """The DCT of luma of an image `(H, W, 3)` in [0, 1], `(H, W)` in levels of 255, divided by `scale`.

    An orthonormal transform of an image of s times the side has s times the coefficients; divided by s
    they are those of the smaller image at the same frequencies.
    """
    return np.asarray(spectrum.cosine_transform(255 * images.luma(jnp.asarray(image)))) / scale


def figure3(config: dict[str, Any], folder: Path) -> list[Path]:
    """DCT magnitude spectra and high-pass images of one image: clean, attacked, recovered."""
    found, views, name = _three_views(config)
    side = views[0].image.shape[0]
    spectra, high_passes, curves = [], [], {}
    for view in views:
        height, width = view.image.shape[:2]
        scale = height / side
        coefficients = scaled_spectrum(view.image, scale)
        spectra.append(np.asarray(spectrum.log_magnitude(jnp.asarray(coefficients))))
        high_passes.append(np.asarray(spectrum.high_pass(view.image, config["cutoff"] / scale)))
        magnitude = np.abs(coefficients)
        bins = round(40 * scale)
        average = spectrum.radial_average(magnitude, spectrum.cosine_radius(height, width), bins)
        curves[view.name] = (spectrum.ring_centres(bins, scale / 2), np.log10(average))
    figure = plots.spectrum_figure(
        views, spectra, high_passes, curves, config["cutoff"], _title(found, f"spectra of {name}")
    )
    numbers = {
        label: {
            "cycles_per_pixel_of_clean_image": frequency.tolist(),
            "mean_magnitude": (10**amplitude).tolist(),
        }
        for label, (frequency, amplitude) in curves.items()
    }
    return [*style.save(figure, folder / "figure3"), _numbers(folder, "figure3", numbers)]


def figure4(config: dict[str, Any], folder: Path) -> list[Path]:
    """Feature maps of a named block of one image: clean, attacked, recovered."""
    found, views, name = _three_views(config)
    classifier = found.experiment.classifier
    maps = [features.feature_maps(classifier, view.image[None], config["block"])[0] for view in views]
    channels = config["channels"]
    if not isinstance(channels, int) or not 0 <= channels <= maps[0].shape[-1]:
        raise InputError(f"figure4: config.channels must be 0 to {maps[0].shape[-1]}, not {channels!r}")
    # The channels that the attack changes most, which says nothing against or for the defense.
    change = np.abs(maps[1] - maps[0]).mean(axis=(0, 1))
    strongest = np.argsort(-change, kind="stable")[:channels]
    rows = {f"mean magnitude\nof {maps[0].shape[-1]} channels": [np.abs(m).mean(axis=-1) for m in maps]}
    rows |= {f"channel {channel}": [m[..., channel] for m in maps] for channel in strongest}
    # Recovered maps may be larger; they are compared in the size of the clean ones.
    small = [np.asarray(images.resize(m, *maps[0].shape[:2])) for m in maps]
    norm = np.linalg.norm(small[0])
    changes = [float(np.linalg.norm(m - small[0]) / norm) for m in small]
    title = _title(found, f"{config['block']} of {name}\nchannels that the attack changes most")
    figure = plots.feature_map_figure(views, rows, [np.nan, *changes[1:]], title)
    numbers = {
        "block": config["block"],
        "channels": [int(channel) for channel in strongest],
        "relative_change": dict(zip(("attacked", "recovered"), changes[1:], strict=True)),
    }
    return [*style.save(figure, folder / "figure4"), _numbers(folder, "figure4", numbers)]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays of one length; nan if one of them is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else float("nan")


def activation_maps(config: dict[str, Any], folder: Path) -> list[Path]:
    """Figures 5 and 6: activation maps of clean, attacked and recovered images, and the changes."""
    attack, defense = _one(config, "attacks"), _one(config, "defenses")
    found = Cases.create(config, config["images"])
    clean, attacked = found.dataset.images, found.attacked(attack)
    recovered = found.defended(attack, defense)
    size = found.experiment.batch_size
    versions = [("clean", clean), (f"attacked ({attack})", attacked), (f"recovered ({defense})", recovered)]
    maps = [cam.activation_maps(found.experiment.classifier, v, batch_size=size)[0] for _, v in versions]
    views = [found.views(label, pixels) for label, pixels in versions]
    columns = []
    for i in range(len(clean)):
        rows = [View("clean image", clean[i], views[0][i].prediction, views[0][i].right)]
        for view, activation in zip(views, maps, strict=True):
            shown = plots.overlay(view[i].image, activation[i])
            rows.append(View(f"map: {view[i].name}", shown, view[i].prediction, view[i].right))
        columns.append(rows)
    gains = tuple(float(gain) for gain in config["gains"])
    if len(gains) != 2:
        raise InputError(f"{config['figure']}: config.gains must be two numbers, not {config['gains']!r}")
    figure = plots.activation_figure(
        columns,
        list(attacked - clean),
        list(recovered - cases.enlarged_like(clean, recovered)),
        (gains[0], gains[1]),
        _title(found, "class activation maps of the predicted class"),
    )
    # How alike the maps are: the correlation over pixels, for each image.
    side = clean.shape[1:3]
    flat = [np.asarray(images.resize(m[..., None], *side)).reshape(len(m), -1) for m in maps]
    alike = {
        name: [correlation(a, b) for a, b in zip(flat[0], other, strict=True)]
        for name, other in zip(("attacked", "recovered"), flat[1:], strict=True)
    }
    name = config["figure"]
    written = style.save(figure, folder / name)
    return [*written, _numbers(folder, name, {"correlation_with_the_clean_map": alike})]


def spectra(config: dict[str, Any], folder: Path) -> list[Path]:
    """Spectra of what attacks and defenses change, averaged over the data set."""
    found = Cases.create(config, config["images"])
    clean, bins = found.dataset.images, config["bins"]
    attacks, defenses = list(found.experiment.attacks), list(found.experiment.defenses)

    def of(changed: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = changed.shape[1] // clean.shape[1]
        return spectrum.residual_spectrum(changed, reference, bins * scale)

    panels = {
        "attacked − clean": {label: of(found.attacked(label), clean) for label in attacks},
        "clean images: defended − clean": {
            label: of(found.defended(CLEAN, label), clean) for label in defenses
        },
    }
    for attack in attacks:
        left = {"no defense": of(found.attacked(attack), clean)}
        for defense in defenses:
            defended, reference = found.defended(attack, defense), found.defended(CLEAN, defense)
            scale = defended.shape[1] / clean.shape[1]
            frequency, amplitude = spectrum.residual_spectrum(defended, reference, round(bins * scale))
            # Both are enlarged here, so frequency and density still count pixels of the enlarged image.
            left[defense] = (scale * frequency, amplitude / scale)
        panels[f"what is left of {attack}"] = left
    title = _title(found, f"mean spectrum of the change over {len(clean)} images")
    figure = plots.residual_figure(panels, title)
    numbers = {
        panel: {
            label: {"cycles_per_pixel_of_clean_image": f.tolist(), "amplitude": a.tolist()}
            for label, (f, a) in curves.items()
        }
        for panel, curves in panels.items()
    }
    return [*style.save(figure, folder / "spectra"), _numbers(folder, "spectra", numbers)]


FIGURES: dict[str, Callable[[dict[str, Any], Path], list[Path]]] = {
    "figure1": figure1,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": activation_maps,
    "figure6": activation_maps,
    "spectra": spectra,
}
