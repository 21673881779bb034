"""Named combinations; the released pipeline against the authors' stored images."""

import jax
import numpy as np
from PIL import Image
from sample_photographs import photograph

from srdef import defenses, images

KEY = jax.random.key(0)


def test_the_released_pipeline_reproduces_the_stored_image(paper_demo):
    adversarial, stored = (
        np.asarray(Image.open(paper_demo / name).convert("RGB"))
        for name in ("adversarial.png", "denoised.jpg")
    )
    image = images.from_uint8(adversarial)[None]
    errors = {}
    for sigma in (0.03, 0.04, 0.05):
        defense = defenses.create("paper_released", sigma=sigma)
        result = defenses.apply(defense, image, key=KEY)[0]
        errors[sigma] = float(np.abs(255 * result - stored).mean())
    assert errors[0.04] <= 1.3
    assert errors[0.04] == min(errors.values())
    # What the stored image was not made with.
    for other in (
        defenses.Sequential([defenses.Wavelet(), defenses.Jpeg(95)]),
        defenses.Wavelet(sigma_scaling="channel"),
    ):
        result = defenses.apply(other, image, key=KEY)[0]
        assert float(np.abs(255 * result - stored).mean()) > errors[0.04]


def test_quilting_then_total_variation():
    bank = defenses.build_bank([images.to_uint8(photograph(1, 32, 32))], 200)
    image = photograph(0, 20, 20)
    both = defenses.create("quilting_tvm", bank=bank)
    steps = defenses.Sequential([defenses.Quilting(bank), defenses.TotalVariation()])
    np.testing.assert_array_equal(both(image, KEY), steps(image, KEY))
