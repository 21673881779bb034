"""The quickstart's table on the images of the NIPS-2017 competition: `--config=configs/nips2017.py:lite0`.

The folder (the competition's layout: `images.csv` and `images/`) is the environment variable
SRDEF_NIPS2017, or `--config.dataset.path`.
"""

import os

from ml_collections import ConfigDict

from configs import quickstart

# Classifier and image side: super-resolution doubles it to a size the classifier still reads well.
CLASSIFIERS = {"lite0": ("efficientnet_lite0", 160), "lite2": ("efficientnet_lite2", 192)}


def get_config(classifier: str = "lite0") -> ConfigDict:
    """`lite0`: EfficientNet-Lite0 at 160 pixels; `lite2`: EfficientNet-Lite2 at 192."""
    name, size = CLASSIFIERS[classifier]
    config = quickstart.get_config()
    config.batch_size = 20
    path = os.environ.get("SRDEF_NIPS2017", "data/nips2017")
    config.dataset = ConfigDict({"name": "nips2017", "path": path, "size": size})
    config.classifier = ConfigDict({"name": name, "pretrained": True})
    return config
