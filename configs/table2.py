"""The paper's Table 2: the defenses of others, SR and WD+SR on NIPS-2017 DEV.

Arguments as `configs/paper.py` says. The paper's numbers count all images; ours, as everywhere, those
that the classifier has right when they are clean.
"""

from ml_collections import ConfigDict

from srdef.configs import paper


def get_config(argument: str = "") -> ConfigDict:
    """The paper's seven columns as rows."""
    config, _ = paper.start(2, argument)
    rows = {
        **paper.NO_DEFENSE,
        **paper.baselines(config.dataset.size),
        "SR": paper.super_resolution(),
        "WD+SR": [paper.WAVELET, paper.super_resolution()],
    }
    config.defenses = ConfigDict(rows)
    return config
