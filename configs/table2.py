"""The paper's Table 2: the defenses of others, SR and WD+SR on NIPS-2017 DEV.

Arguments as `configs/paper.py` says. The paper's numbers count all images; ours, as everywhere, those
that the classifier has right when they are clean.
"""

from ml_collections import ConfigDict

from srdef.configs import common, paper


def get_config(argument: str = "") -> ConfigDict:
    """The paper's seven columns as rows."""
    config, chosen = paper.start(2, argument, network=common.choice(*paper.NETWORKS))
    enlarge = paper.super_resolution(chosen.network)
    rows = {
        **paper.NO_DEFENSE,
        **paper.baselines(config.dataset.size),
        "SR": enlarge,
        "WD+SR": [paper.WAVELET, enlarge],
    }
    config.defenses = ConfigDict(rows)
    return config
