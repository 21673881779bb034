"""The gradient-sign attacks on the images of the NIPS-2017 competition: `--config=configs/nips2017.py:lite0`.

Everything else is as in `configs/quickstart.py`; `configs/table1.py` has all attacks and defenses.
The folder (the competition's layout: `images.csv` and `images/`) is the environment variable
SRDEF_NIPS2017, or `--config.dataset.path`. Of the full development set `--config.dataset.stride=2` takes the
images of the tables in docs/results/paper-tables.md.
"""

from ml_collections import ConfigDict

from srdef.configs import common, quickstart

ATTACKS = ("FGSM-2", "FGSM-5", "FGSM-10", "I-FGSM", "MI-FGSM")

# The paper's classifiers, at the sizes that they were trained with; their weights are downloaded.
PAPER = {
    "inception_v3": ("inception_v3", 299),
    "resnet50": ("resnet50", 224),
    "inception_resnet_v2": ("inception_resnet_v2", 299),
}

# Classifier and image side: super-resolution doubles it to a size the classifier still reads well.
CLASSIFIERS = {"lite0": ("efficientnet_lite0", 160), "lite2": ("efficientnet_lite2", 192), **PAPER}


def get_config(argument: str = "") -> ConfigDict:
    """`lite0`: EfficientNet-Lite0 at 160 pixels; `lite2`: EfficientNet-Lite2 at 192; or the paper's."""
    chosen = common.parse_arg(argument, classifier=common.choice(*CLASSIFIERS))
    name, size = CLASSIFIERS[chosen.classifier]
    config = quickstart.get_config()
    config.batch_size = 20
    config.attacks = ConfigDict({name: dict(quickstart.attacks()[name]) for name in ATTACKS})
    config.dataset = ConfigDict(common.nips2017(size))
    config.classifier = ConfigDict({"name": name, "pretrained": True})
    return config
