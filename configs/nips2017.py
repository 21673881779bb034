"""The gradient-sign attacks on the images of the NIPS-2017 competition: `--config=configs/nips2017.py:lite0`.

Everything else is as in `configs/quickstart.py`; `configs/table1.py` has all attacks and defenses.
The folder (the competition's layout: `images.csv` and `images/`) is the environment variable
SRDEF_NIPS2017, or `--config.dataset.path`. Of the full development set `--config.dataset.stride=2` takes the
images of the tables in docs/results.md.
"""

import os

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import quickstart
from srdef.errors import InputError

ATTACKS = ("FGSM-2", "FGSM-5", "FGSM-10", "I-FGSM", "MI-FGSM")

# The paper's classifiers, at the sizes that they were trained with; their weights are downloaded.
PAPER = {
    "inception_v3": ("inception_v3", 299),
    "resnet50": ("resnet50", 224),
    "inception_resnet_v2": ("inception_resnet_v2", 299),
}

# Classifier and image side: super-resolution doubles it to a size the classifier still reads well.
CLASSIFIERS = {"lite0": ("efficientnet_lite0", 160), "lite2": ("efficientnet_lite2", 192), **PAPER}


def get_config(classifier: str = "lite0") -> ConfigDict:
    """`lite0`: EfficientNet-Lite0 at 160 pixels; `lite2`: EfficientNet-Lite2 at 192; or the paper's."""
    if classifier not in CLASSIFIERS:
        raise InputError(f"unknown classifier {classifier!r}; choose from: {', '.join(CLASSIFIERS)}")
    name, size = CLASSIFIERS[classifier]
    config = quickstart.get_config()
    config.batch_size = 20
    config.attacks = ConfigDict({name: dict(quickstart.attacks()[name]) for name in ATTACKS})
    path = os.environ.get("SRDEF_NIPS2017", "data/nips2017")
    config.dataset = ConfigDict({"name": "nips2017", "path": path, "size": size, "offset": 0, "stride": 1})
    config.dataset.limit = placeholder(int)  # `--config.dataset.limit=100` takes the first hundred
    config.classifier = ConfigDict({"name": name, "pretrained": True})
    return config
