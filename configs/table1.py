"""The paper's Table 1: nine attacks with the paper's budgets, before every defense.

    python -m experiments.evaluate --config=configs/table1.py --config.dataset.path=DIR --workdir=DIR

`configs/paper.py` says what the argument may be: `:lite0,3x60` on a CPU. Beside the paper's rows stand
TVM without quilting, the two halves of the paper's defense, and bicubic enlargement as a control:
whatever helps there is not super-resolution's merit. The images are NIPS-2017's; the paper's, 5000 of
ILSVRC's, are the data set `tfds` with `imagenet2012`.
"""

from ml_collections import ConfigDict

from srdef.configs import common, paper


def get_config(argument: str = "") -> ConfigDict:
    """All rows."""
    network = common.choice(*paper.NETWORKS)
    config, chosen = paper.start(1, argument, network=network, smallest=False)
    if chosen.smallest:
        config.attacks.update(paper.smallest())
    enlarge = paper.super_resolution(chosen.network)
    rows = {
        **paper.NO_DEFENSE,
        **paper.baselines(config.dataset.size),
        "TVM": {"name": "total_variation"},
        "bicubic x2": paper.interpolation("bicubic"),
        "WD": paper.WAVELET,
        "SR": enlarge,
        "WD+SR": [paper.WAVELET, enlarge],
    }
    config.defenses = ConfigDict(rows)
    return config
