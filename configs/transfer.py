"""The transfer matrix: from each of four classifiers to the others, with and without WD+SR before the target.

    --config=configs/transfer.py:images=samples,methods=all

- images: `samples` are the 20 sample images; `nips` the first 200 of the NIPS-2017 folder (SRDEF_NIPS2017 or
  `--config.dataset.path`).
- methods: `all`, or `few`: those that take at most 50 gradients of an image. The others take 150 (Admix), 200
  (SSA) or 210 (VMI, VNI).

All classifiers are those whose weights a package brings along, at 160 pixels. Admix mixes the images with
those of the data set.
"""

from ml_collections import ConfigDict

from srdef.configs import common, quickstart

EPSILON = 16 / 255
CLASSIFIERS = {
    "Lite0": "efficientnet_lite0",
    "Lite1": "efficientnet_lite1",
    "Lite2": "efficientnet_lite2",
    "SqueezeNet": "squeezenet",
}
FEW = {
    "FGSM": "fgsm",
    "I-FGSM": "ifgsm",
    "MI-FGSM": "mifgsm",
    "MDI²FGSM": "mdi2fgsm",
    "NI-FGSM": "nifgsm",
    "TI-FGSM": "tifgsm",
    "SI-NI-FGSM": "sinifgsm",
}
ALL = {**FEW, "Admix": "admix", "SSA": "ssa", "VMI-FGSM": "vmifgsm", "VNI-FGSM": "vnifgsm"}


def get_config(argument: str = "") -> ConfigDict:
    """Images and methods, as above."""
    chosen = common.parse_arg(
        argument, images=common.choice("samples", "nips"), methods=common.choice("all", "few")
    )
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 20
    if chosen.images == "nips":
        config.dataset = ConfigDict(common.nips2017(160, limit=200))
    else:
        config.dataset = ConfigDict({"name": "imagenet_samples", "size": 160, "offset": 0, "limit": 20})
    config.classifiers = ConfigDict(
        {label: {"name": name, "pretrained": True} for label, name in CLASSIFIERS.items()}
    )
    config.attacks = ConfigDict(
        {label: {"name": name, "epsilon": EPSILON, "storage": "uint8"} for label, name in ALL.items()}
    )
    # Which of the attacks, in this order; empty: all.
    config.columns = tuple(FEW if chosen.methods == "few" else ALL)
    defenses = {"no defense": {"name": "identity"}, "WD+SR": quickstart.defenses()["WD+SR"]}
    config.defenses = ConfigDict(defenses)
    # Which of the defenses, in the order of the tables (a ConfigDict sorts its names); empty: all.
    config.rows = tuple(defenses)
    return config
