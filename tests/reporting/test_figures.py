"""Every figure, from its configuration to its files."""

import json
import re

import numpy as np
import pytest
import scipy.fft
from PIL import Image
from skimage.color import rgb2ycbcr

from configs import figures as configuration
from srdef.commands import cli
from srdef.errors import InputError
from srdef.interpret import cam, spectrum
from srdef.reporting import figure1, figure_parts, figures, scatter_html, style
from srdef.reporting.plots import PointSet


def small(name, **changes):
    """A figure's own configuration with few small images, one FGSM step, and no network for the defense."""
    config = configuration.get_config(name)
    config.dataset.update({"size": 64, "limit": 8})
    config.batch_size = 4
    config.update(changes)
    plain = cli.plain(config)
    plain["attacks"] = {"FGSM-10": {"name": "fgsm", "epsilon": 10 / 255, "storage": "uint8"}}
    plain["defenses"] = {"bicubic ×2": {"name": "interpolation", "method": "bicubic"}}
    return plain


def check(written, folder, name):
    assert [path.name for path in written if path.suffix != ".html"] == [
        f"{name}.pdf",
        f"{name}.png",
        f"{name}.json",
    ]
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    picture = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
    assert picture.std() > 10
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_figure1(tmp_path):
    written = figures.make(small("figure1"), tmp_path)
    numbers = check(written, tmp_path, "figure1")
    ratios = numbers["explained_variance_ratio"]
    assert sorted(ratios, reverse=True) == ratios
    assert 0 < sum(ratios) <= 1
    assert numbers["classified_correctly"]["clean"] == 1
    page = (tmp_path / "figure1.html").read_text()
    assert not re.search(r"https?://|src=|@\w+@", page)
    data = json.loads(re.search(r"const data = (.*);\n", page).group(1))
    assert [len(s["points"]) for s in data["sets"]] == [numbers["images"]] * 3


def noise(folder, count):
    """A data set of images that the classifier has right by definition."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return {"name": "folder", "path": str(folder), "size": 64, "labels": "predicted"}


def test_figure1_shows_a_detector_only_images_that_it_was_not_trained_on(tmp_path):
    config = {**small("figure1", images=2), "dataset": noise(tmp_path, 5)}
    names = figure_parts.start(config).dataset.names
    assert len(names) == 5
    (tmp_path / "images.json").write_text(json.dumps({"train": [names[0], names[2]], "test": []}))
    found = figure1.unseen({**config, "detector": str(tmp_path)})
    assert found.dataset.names == (names[1], names[3])
    crops = [f"photographs/{names[0]}#0", f"photographs/{names[2]}#1"]  # of the same files
    (tmp_path / "images.json").write_text(json.dumps({"train": crops, "test": []}))
    assert figure1.unseen({**config, "detector": str(tmp_path)}).dataset.names == (names[1], names[3])
    (tmp_path / "images.json").write_text(json.dumps({"train": names[1:], "test": []}))
    with pytest.raises(InputError, match="that the manifold classifier was not trained on are needed, not 1"):
        figures.make({**config, "detector": str(tmp_path)}, tmp_path)


def test_predicted_labels(tmp_path):
    found = figure_parts.start({**small("figure1"), "dataset": noise(tmp_path, 3)})
    assert len(found.dataset) == 3
    np.testing.assert_array_equal(found.dataset.labels, found.predict(found.dataset.images))


def test_spectra_of_two_sizes_are_on_one_scale():
    """Doubled by nearest neighbours, an image has the same coefficients, times two cosines."""
    image = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
    doubled = image.repeat(2, axis=0).repeat(2, axis=1)
    small, large = spectrum.scaled_transform(image, 1), spectrum.scaled_transform(doubled, 2)[:32, :32]
    blur = np.cos(np.pi * np.arange(32) / 128)
    np.testing.assert_allclose(large, small * blur * blur[:, None], atol=2e-3)  # of up to 4000 levels
    # So the panel of logarithms hardly moves at low frequencies: two hundredths of a power of ten.
    low = np.abs(np.log10(np.abs(large[:8, :8])) - np.log10(np.abs(small[:8, :8])))
    assert low.max() < 0.02


@pytest.mark.slow
def test_figure3(tmp_path):
    numbers = check(figures.make(small("figure3"), tmp_path), tmp_path, "figure3")
    clean, adversarial, recovered = (
        np.array(numbers[name]["mean_magnitude"])
        for name in ("clean", "adversarial (FGSM-10)", "recovered (bicubic ×2)")
    )
    image = figure_parts.start(small("figure3")).dataset.images[0].astype(np.float64)
    magnitude = np.abs(scipy.fft.dctn(rgb2ycbcr(image)[..., 0], norm="ortho"))
    radius = np.hypot(*np.indices(magnitude.shape)) / 64
    ring = (radius >= 3 / 40) & (radius < 4 / 40)
    assert clean[3] == pytest.approx(magnitude[ring].mean(), rel=1e-3)  # float32 against float64
    assert adversarial[-10:].mean() > clean[-10:].mean()
    # Bicubic interpolation has hardly anything above the frequencies of the clean image.
    assert len(recovered) == 2 * len(clean)
    assert recovered[-10:].mean() < clean[-10:].mean()


@pytest.mark.slow
def test_figure4(tmp_path):
    numbers = check(figures.make(small("figure4"), tmp_path), tmp_path, "figure4")
    assert len(numbers["channels"]) == 3
    assert numbers["relative_change"]["adversarial"] > 0
    with pytest.raises(InputError, match="unknown feature map 'block77'"):
        figures.make(small("figure4", block="block77"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure5", "figure6"])
def test_activation_figures(name, tmp_path):
    numbers = check(figures.make(small(name, images=2), tmp_path), tmp_path, name)
    alike = numbers["correlation_with_the_clean_map"]
    assert [len(values) for values in alike.values()] == [2, 2]
    assert all(-1 <= value <= 1 for values in alike.values() for value in values)


def test_a_constant_activation_map_has_no_correlation(tmp_path, monkeypatch):
    assert cam.correlation(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1)
    flat = lambda classifier, pixels, batch_size: (np.zeros(pixels.shape[:3], np.float32), None)  # noqa: E731
    monkeypatch.setattr(cam, "activation_maps", flat)
    numbers = check(figures.make(small("figure5", images=1), tmp_path), tmp_path, "figure5")
    assert numbers["correlation_with_the_clean_map"] == {"adversarial": [None], "recovered": [None]}


def test_spectra(tmp_path):
    numbers = check(figures.make(small("spectra", bins=8), tmp_path), tmp_path, "spectra")
    attack = np.array(numbers["adversarial − clean"]["FGSM-10"]["amplitude"])
    # Every pixel moves by 10 levels where it is not clipped: with the areas of the rings, which hold pi/4 of
    # all coefficients, the power is at most that, and most of it.
    areas = np.pi / 4 * np.diff((np.arange(9) / 8) ** 2)
    assert 0.5 < np.sum(areas * attack**2) / (10 / 255) ** 2 < 1.02
    left = numbers["what is left of FGSM-10"]
    np.testing.assert_allclose(left["no defense"]["amplitude"], attack)
    # Interpolation keeps low frequencies of the perturbation and has hardly any above the clean image's.
    defended = np.array(left["bicubic ×2"]["amplitude"])
    np.testing.assert_allclose(defended[1], attack[1], rtol=0.15)
    assert defended[-1] < 0.2 * attack[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figure": "figure2"}, "unknown figure 'figure2'; choose from: figure1"),
        ({"colour": 1}, "unknown config field 'colour'"),
        ({"image": 99}, "config.image must be 0 to"),
        ({"cutoff": 2}, "cutoff"),
        ({"attacks": {}}, "config.attacks must"),
        ({"defenses": {"s": {"name": "shield", "passes": 3}}}, r'"s"\]: passes=3 is for srdef evaluate'),
    ],
)
def test_bad_configurations(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        figures.make({**small("figure3"), **change}, tmp_path)


def test_a_name_cannot_end_the_script_of_the_page():
    sets = [PointSet("</script>", style.CLEAN, np.zeros((1, 3)))]
    page = scatter_html.scatter_page(sets, [["a"]], ["</script><b>"], ["x", "y", "z"], "<title>")
    assert page.count("</script>") == 1
    assert "<title>&lt;title&gt;</title>" in page
