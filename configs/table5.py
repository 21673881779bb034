"""The paper's Table 5: wavelet denoising, super-resolution, and both.

Arguments as `configs/paper.py` says; the paper has three classifiers, `:inception_v3`, `:resnet50` and
`:inception_resnet_v2`. With `,downloads` the rows come with the authors' EDSR-baseline too.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(argument: str = "lite0") -> ConfigDict:
    """WD, SR and WD+SR."""
    config, downloads = paper.start(5, argument)
    rows = {**paper.NO_DEFENSE, "WD": paper.WAVELET}
    networks = {"": paper.super_resolution()}
    if downloads:
        networks[" (EDSR-baseline)"] = paper.super_resolution("edsr_baseline_x2", weights="official")
    for words, enlarge in networks.items():
        rows[f"SR{words}"] = enlarge
        rows[f"WD+SR{words}"] = [paper.WAVELET, enlarge]
    config.defenses = ConfigDict(rows)
    return config
