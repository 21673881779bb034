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
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, check_fields
from srdef.evaluation.experiment import FIELDS as SHARED
from srdef.evaluation.run import Run
from srdef.interpret import cam, features, spectrum
from srdef.reporting import figure1, plots, style
from srdef.reporting.figure_parts import only_entry, start, title_of, views_of, write_numbers
from srdef.reporting.plots import View

# The fields of each figure's configuration beside `figure` and those of every experiment.
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
    check_fields(config, ("figure", *SHARED, *FIELDS[name]))
    return FIGURES[name](config, folder)


def _three_views(config: dict[str, Any]) -> tuple[Run, list[View], str]:
    """Clean, adversarial and recovered version of image number `config.image`, and words for a title."""
    attack, defense = only_entry(config, "attacks"), only_entry(config, "defenses")
    run = start(config)
    index = config["image"]
    if not isinstance(index, int) or not 0 <= index < len(run.dataset):
        raise InputError(
            f"{config['figure']}: config.image must be 0 to {len(run.dataset) - 1} (the images that are "
            f"classified correctly), not {index!r}"
        )
    run = run.select(slice(index, index + 1))
    views = [
        *views_of(run, "clean", run.dataset.images),
        *views_of(run, f"adversarial ({attack})", run.pixels(attack)),
        *views_of(run, f"recovered ({defense})", run.defended(attack, defense)),
    ]
    return run, views, run.dataset.names[0]


def figure3(config: dict[str, Any], folder: Path) -> list[Path]:
    """DCT magnitude spectra and high-pass images of one image: clean, adversarial, recovered."""
    run, views, name = _three_views(config)
    side = views[0].image.shape[0]
    spectra, high_passes, curves = [], [], {}
    for view in views:
        height, width = view.image.shape[:2]
        scale = height / side
        coefficients = spectrum.scaled_transform(view.image, scale)
        spectra.append(np.asarray(spectrum.log_magnitude(jnp.asarray(coefficients))))
        high_passes.append(np.asarray(spectrum.high_pass(view.image, config["cutoff"] / scale)))
        magnitude = np.abs(coefficients)
        bins = round(40 * scale)
        average = spectrum.radial_average(magnitude, spectrum.cosine_radius(height, width), bins)
        curves[view.name] = (spectrum.ring_centres(bins, scale / 2), np.log10(average))
    figure = plots.spectrum_figure(
        views, spectra, high_passes, curves, config["cutoff"], title_of(run, f"spectra of {name}")
    )
    numbers = {
        label: {
            "cycles_per_pixel_of_clean_image": frequency.tolist(),
            "mean_magnitude": (10**amplitude).tolist(),
        }
        for label, (frequency, amplitude) in curves.items()
    }
    return [*style.save(figure, folder / "figure3"), write_numbers(folder, "figure3", numbers)]


def figure4(config: dict[str, Any], folder: Path) -> list[Path]:
    """Feature maps of a named block of one image: clean, adversarial, recovered."""
    run, views, name = _three_views(config)
    classifier = run.experiment.classifier
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
    title = title_of(run, f"{config['block']} of {name}\nchannels that the attack changes most")
    figure = plots.feature_map_figure(views, rows, [np.nan, *changes[1:]], title)
    numbers = {
        "block": config["block"],
        "channels": [int(channel) for channel in strongest],
        "relative_change": dict(zip(("adversarial", "recovered"), changes[1:], strict=True)),
    }
    return [*style.save(figure, folder / "figure4"), write_numbers(folder, "figure4", numbers)]


def activation_maps(config: dict[str, Any], folder: Path) -> list[Path]:
    """Figures 5 and 6: activation maps of clean, adversarial and recovered images, and the changes."""
    attack, defense = only_entry(config, "attacks"), only_entry(config, "defenses")
    run = start(config).select(slice(config["images"]))
    clean, adversarial = run.dataset.images, run.pixels(attack)
    recovered = run.defended(attack, defense)
    size = run.experiment.batch_size
    versions = [
        ("clean", clean),
        (f"adversarial ({attack})", adversarial),
        (f"recovered ({defense})", recovered),
    ]
    maps = [cam.activation_maps(run.experiment.classifier, v, batch_size=size)[0] for _, v in versions]
    views = [views_of(run, label, pixels) for label, pixels in versions]
    columns = []
    for i in range(len(clean)):
        rows = [View("clean image", clean[i], views[0][i].prediction, views[0][i].correct)]
        for view, activation in zip(views, maps, strict=True):
            shown = plots.overlay(view[i].image, activation[i])
            rows.append(View(f"map: {view[i].name}", shown, view[i].prediction, view[i].correct))
        columns.append(rows)
    enlarged = (
        np.asarray(images.resize(clean, *recovered.shape[1:3])) if clean.shape != recovered.shape else clean
    )
    gains = tuple(float(gain) for gain in config["gains"])
    if len(gains) != 2:
        raise InputError(f"{config['figure']}: config.gains must be two numbers, not {config['gains']!r}")
    figure = plots.activation_figure(
        columns,
        list(adversarial - clean),
        list(recovered - enlarged),
        (gains[0], gains[1]),
        title_of(run, "class activation maps of the predicted class"),
    )
    # How alike the maps are: the correlation over pixels, for each image.
    side = clean.shape[1:3]
    flat = [np.asarray(images.resize(m[..., None], *side)).reshape(len(m), -1) for m in maps]
    alike = {
        name: [cam.correlation(a, b) for a, b in zip(flat[0], other, strict=True)]
        for name, other in zip(("adversarial", "recovered"), flat[1:], strict=True)
    }
    name = config["figure"]
    written = style.save(figure, folder / name)
    return [*written, write_numbers(folder, name, {"correlation_with_the_clean_map": alike})]


def spectra(config: dict[str, Any], folder: Path) -> list[Path]:
    """Spectra of what attacks and defenses change, averaged over the data set."""
    run = start(config).select(slice(config["images"]))
    clean, bins = run.dataset.images, config["bins"]
    attacks, defenses = list(run.experiment.attacks), list(run.experiment.defenses)

    def of(changed: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = changed.shape[1] // clean.shape[1]
        return spectrum.residual_spectrum(changed, reference, bins * scale)

    panels = {
        "adversarial − clean": {label: of(run.pixels(label), clean) for label in attacks},
        "clean images: defended − clean": {
            label: of(run.defended(CLEAN, label), clean) for label in defenses
        },
    }
    for attack in attacks:
        left = {"no defense": of(run.pixels(attack), clean)}
        for defense in defenses:
            defended, reference = run.defended(attack, defense), run.defended(CLEAN, defense)
            scale = defended.shape[1] / clean.shape[1]
            frequency, amplitude = spectrum.residual_spectrum(defended, reference, round(bins * scale))
            # Both are enlarged here, so frequency and density still count pixels of the enlarged image.
            left[defense] = (scale * frequency, amplitude / scale)
        panels[f"what is left of {attack}"] = left
    title = title_of(run, f"mean spectrum of the change over {len(clean)} images")
    figure = plots.residual_figure(panels, title)
    numbers = {
        panel: {
            label: {"cycles_per_pixel_of_clean_image": f.tolist(), "amplitude": a.tolist()}
            for label, (f, a) in curves.items()
        }
        for panel, curves in panels.items()
    }
    return [*style.save(figure, folder / "spectra"), write_numbers(folder, "spectra", numbers)]


FIGURES: dict[str, Callable[[dict[str, Any], Path], list[Path]]] = {
    "figure1": figure1.make,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": activation_maps,
    "figure6": activation_maps,
    "spectra": spectra,
}
