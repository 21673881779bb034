"""The paper's figures: `--config=configs/figures.py:figure3`; or figure1, 4, 5, 6, or spectra.

The images are the 20 sample images. With `--config=configs/figures.py:figure1,nips2017` (in full
`figure=figure1,images=nips2017`) they are those of the NIPS-2017 competition, in the folder that the
environment variable SRDEF_NIPS2017 names (or `--config.dataset.path`). Any attack and defense of the
registries can take the place of these.
"""

from ml_collections import ConfigDict

from srdef.configs import common, quickstart

FIGURES = ("figure1", "figure3", "figure4", "figure5", "figure6", "spectra")


def get_config(argument: str = "") -> ConfigDict:
    """EfficientNet-Lite0 at 160 pixels; the attack of each figure is the paper's."""
    chosen = common.parse_arg(
        argument, figure=common.choice(*FIGURES), images=common.choice("samples", "nips2017")
    )
    figure = chosen.figure
    config = ConfigDict()
    config.figure = figure
    config.seed = 0
    config.batch_size = 10
    config.dataset = ConfigDict({"name": "imagenet_samples", "size": 160, "limit": 20})
    if chosen.images == "nips2017":
        # As many as give 100 that are classified correctly.
        config.dataset = ConfigDict(common.nips2017(160, limit=130))
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
