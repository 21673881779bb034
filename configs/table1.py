"""The paper's Table 1: nine attacks with the paper's budgets, before every defense.

    python -m experiments.evaluate --config=configs/table1.py --config.dataset.path=DIR --workdir=DIR

`configs/paper.py` says what the argument may be: `:lite0,3x60` on a CPU. Beside the paper's rows stand
TVM without quilting, the two halves of the paper's defense, and bicubic enlargement as a control:
whatever helps there is not super-resolution's merit. The images are NIPS-2017's; the paper's, 5000 of
ILSVRC's, are the data set `tfds` with `imagenet2012`.
"""

from ml_collections import ConfigDict

from srdef.configs import paper


def get_config(argument: str = "") -> ConfigDict:
    """All rows."""
    config, _ = paper.start(1, argument)
    rows = {
        **paper.NO_DEFENSE,
        **paper.baselines(config.dataset.size),
        "TVM": {"name": "total_variation"},
        "bicubic x2": paper.interpolation("bicubic"),
        "WD": paper.WAVELET,
        "SR": paper.super_resolution(),
        "WD+SR": [paper.WAVELET, paper.super_resolution()],
    }
    config.defenses = ConfigDict(rows)
    return config
