"""Your own images through the main job: `--config=configs/folder.py:PATH`.

In full `path=PATH,labels=predicted,classifier=lite0`:

- path: the folder;
- labels: `predicted` takes what the classifier says of each clean image as its label, so that any images
  will do; `directories` is one folder for each class; NAME.csv is a file in the folder with the columns
  `file` and `label`;
- classifier: as in `configs/nips2017.py`.

Attacks and defenses are those of `configs/quickstart.py`.
"""

from ml_collections import ConfigDict

from srdef.configs import common, nips2017, quickstart
from srdef.errors import InputError


def labels_of(text: str) -> str:
    """One of the two words, or the name of a CSV file; ValueError for another text."""
    if text not in ("predicted", "directories") and not text.lower().endswith(".csv"):
        raise ValueError(text)
    return text


def get_config(argument: str = "") -> ConfigDict:
    """The quickstart's attacks and defenses on the images in a folder."""
    chosen = common.parse_arg(
        argument,
        path=common.Key("", str, "FOLDER"),
        labels=common.Key("predicted", labels_of, "predicted | directories | NAME.csv"),
        classifier=common.choice(*nips2017.CLASSIFIERS),
    )
    if not chosen.path:
        raise InputError("say where the images are: folder:PATH")
    name, size = nips2017.CLASSIFIERS[chosen.classifier]
    config = quickstart.get_config()
    config.dataset = ConfigDict(
        {"name": "folder", "path": chosen.path, "size": size, "labels": chosen.labels, "limit": None}
    )
    config.classifier = ConfigDict({"name": name, "pretrained": True})
    return config
