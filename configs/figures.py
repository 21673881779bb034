"""The paper's figures: `--config=configs/figures.py:figure3`; or figure1, 4, 5, 6, or spectra.

The images are the 20 sample photographs. With `--config=configs/figures.py:figure1,nips2017` they are those
of the NIPS-2017 competition, in the folder that the environment variable SRDEF_NIPS2017 names (or
`--config.dataset.path`). Any attack and defense of the registries can stand in the place of these.
"""

import os

from ml_collections import ConfigDict

from configs import quickstart
from srdef.errors import InputError

FIGURES = ("figure1", "figure3", "figure4", "figure5", "figure6", "spectra")


def get_config(argument: str = "figure1") -> ConfigDict:
    """EfficientNet-Lite0 at 160 pixels; the attack of each figure is the paper's."""
    figure, _, source = argument.partition(",")
    if figure not in FIGURES:
        raise InputError(f"unknown figure {figure!r}; choose from: {', '.join(FIGURES)}")
    if source not in ("", "samples", "nips2017"):
        raise InputError(f"unknown images {source!r}; choose from: samples, nips2017")
    config = ConfigDict()
    config.figure = figure
    config.seed = 0
    config.batch_size = 10
    config.dataset = ConfigDict({"name": "imagenet_samples", "size": 160, "limit": 20})
    if source == "nips2017":
        path = os.environ.get("SRDEF_NIPS2017", "data/nips2017")
        # As many as give 100 that the classifier has right.
        config.dataset = ConfigDict(
            {"name": "nips2017", "path": path, "size": 160, "stride": 1, "limit": 130}
        )
    config.classifier = ConfigDict({"name": "efficientnet_lite0", "pretrained": True})

    attacks = quickstart.attacks()
    used = {
        "figure1": ("MI-FGSM",),
        "figure3": ("MDI²FGSM",),
        "figure4": ("FGSM-10",),
        "figure5": ("FGSM-10",),
        "figure6": ("C&W 3x60",),
        "spectra": ("FGSM-10", "I-FGSM", "MI-FGSM", "MDI²FGSM"),
    }[figure]
    config.attacks = ConfigDict({label: attacks[label] for label in used})
    config.defenses = ConfigDict({"WD+SR": quickstart.defenses()["WD+SR"]})

    if figure == "figure1":
        config.images = 100
        # The folder of a trained manifold classifier, whose features are shown then; "": the classifier's.
        config.detector = ""
    elif figure == "figure3":
        config.image = 0  # of those that are classified correctly
        config.cutoff = 0.25  # of the clean image's Nyquist frequency
    elif figure == "figure4":
        config.image = 0
        config.block = "block2"  # 40 x 40 of the 160 pixels; the paper shows res_3 of a ResNet-50
        config.channels = 3
    elif figure == "figure5":
        config.images = 4
        config.gains = (10.0, 10.0)  # perturbation, recovered minus clean
    elif figure == "figure6":
        config.images = 4
        config.gains = (40.0, 10.0)
    else:
        config.images = 100
        config.bins = 32
        config.defenses = ConfigDict(
            {
                **quickstart.defenses(),
                "bicubic ×2": {"name": "interpolation", "method": "bicubic", "factor": 2},
                "JPEG": {"name": "jpeg", "quality": 80},
            }
        )
    return config
