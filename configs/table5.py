"""The paper's Table 5: wavelet denoising, super-resolution, and both.

Arguments as `configs/paper.py` says; the paper has three classifiers, `:inception_v3`, `:resnet50` and
`:inception_resnet_v2`. With `,downloads` the rows come with the authors' EDSR-baseline too.
"""

from ml_collections import ConfigDict

from srdef.configs import common, paper


def get_config(argument: str = "") -> ConfigDict:
    """WD, SR and WD+SR."""
    config, chosen = paper.start(5, argument, network=common.choice(*paper.NETWORKS))
    rows = {**paper.NO_DEFENSE, "WD": paper.WAVELET}
    networks = {"": paper.super_resolution(chosen.network)}
    if chosen.downloads:
        networks[" (EDSR-baseline, official)"] = paper.super_resolution(
            "edsr_baseline_x2", weights="official"
        )
    for words, enlarge in networks.items():
        rows[f"SR{words}"] = {**enlarge, "paper": "SR"}
        rows[f"WD+SR{words}"] = {"defense": [paper.WAVELET, enlarge], "paper": "WD+SR"}
    config.defenses = ConfigDict(rows)
    return config
