"""One adversarial image through all defenses: the numbers under the pictures, and the picture."""

import jax
import numpy as np
import pytest
from PIL import Image
from toys import make_experiment

from srdef import defenses
from srdef.errors import InputError
from srdef.reporting import defense_gallery
from srdef.reporting.defense_gallery import Panel


@pytest.fixture(scope="module")
def found():
    deflection, wavelet = defenses.PixelDeflection(denoiser=None), defenses.Wavelet()
    experiment = make_experiment(
        defenses={"none": defenses.Identity(), "WD": wavelet, "PD": deflection, "PD 3": deflection},
        passes={"none": 1, "WD": 1, "PD": 1, "PD 3": 3},
    )
    return experiment, *defense_gallery.panels(experiment, "FGSM-9")


def test_shows_the_clean_the_adversarial_and_each_defended_image(found):
    experiment, label, panels = found
    assert [panel.name for panel in panels] == ["clean", "FGSM-9", "WD", "PD", "PD 3 ×3"]
    clean, adversarial, *_ = (panel.image for panel in panels)
    np.testing.assert_array_equal(clean, experiment.dataset.images[0])
    assert label == experiment.dataset.labels[0] == panels[0].prediction
    assert 8.9 / 255 < np.abs(adversarial - clean).max() < 9.1 / 255
    np.testing.assert_allclose(
        panels[2].image, experiment.defenses["WD"](adversarial, jax.random.key(0)), atol=1e-6
    )


def test_says_of_each_image_what_the_classifier_says(found):
    experiment, _, panels = found
    for panel in panels[:4]:  # the last is an average over passes
        probabilities = np.asarray(jax.nn.softmax(experiment.classifier(panel.image[None])[0]))
        assert panel.prediction == probabilities.argmax()
        assert panel.confidence == pytest.approx(probabilities.max(), abs=1e-5)


def test_unknown_attack(found):
    with pytest.raises(InputError, match="unknown attack 'FGSM-3'; choose from: FGSM-2, FGSM-9, I-FGSM"):
        defense_gallery.panels(found[0], "FGSM-3")


def test_picture(tmp_path):
    flat = np.full((12, 16, 3), 0.25, np.float32)
    shown = [Panel(f"number {i}", flat, i % 2, 0.5) for i in range(7)]
    path = tmp_path / "gallery.png"
    defense_gallery.save(path, shown, label=1, class_names=["dog", "cat"], title="title", columns=3)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape[0] > picture.shape[1]  # three rows of three, and words
    # Seven panels of that grey, as large as they should be.
    share = (np.abs(picture - 64).max(axis=-1) <= 2).mean()
    panels = 7 * 1.75 * 1.75 * 0.75 / (5.69 * 7.29)
    assert share == pytest.approx(panels, rel=0.03)
    red, green = (abs(picture - colour).max(axis=-1) < 12 for colour in ((194, 59, 0), (0, 112, 79)))
    assert red.any()
    assert green.any()
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_show(tmp_path):
    with pytest.raises(InputError, match="at least one image"):
        defense_gallery.save(tmp_path / "x.png", [], label=0, class_names=["a"], title="")
