"""What WD+SR costs clean images, and where that comes from: `--config=configs/clean_cost.py:lite0`.

The argument is a classifier and the side of its images, which super-resolution doubles: `lite0` is
EfficientNet-Lite0 at 160 pixels, `lite1` EfficientNet-Lite1 at 176, `lite2` EfficientNet-Lite2 at 192, and
`lite2_260` the same at 260, the size that it was trained with; `inception_v3` is the paper's at 299, whose
weights are downloaded. The rows are three networks, times the two meanings of the wavelet threshold's sigma
(`defenses.Wavelet`), times the JPEG file in which the released code keeps the denoised image: "as released"
is `paper_released`, with both. `lite2,small` has one of the networks, `compact`, `small` or `baseline`. The
images are the first 200 of NIPS-2017 DEV (the folder that the environment variable SRDEF_NIPS2017 names, or
`--config.dataset.path`).
"""

from typing import Any

from ml_collections import ConfigDict

from srdef.configs import common, nips2017, paper, quickstart

CLASSIFIERS = {
    "lite0": ("efficientnet_lite0", 160),
    "lite1": ("efficientnet_lite1", 176),
    "lite2": ("efficientnet_lite2", 192),
    "lite2_260": ("efficientnet_lite2", 260),
    "inception_v3": ("inception_v3", 299),
}
NETWORKS = {"compact": "compact_x2", "small": "edsr_small_x2", "baseline": "edsr_baseline_x2"}


def rows(network: str) -> dict[str, Any]:
    """The defenses with one network, by what precedes it."""
    enlarge = paper.super_resolution(network)
    channel = {**paper.WAVELET, "sigma_scaling": "channel"}
    # What `paper_released` does between denoising and super-resolution.
    file = [{"name": "bit_depth", "bits": 8, "rounding": "down"}, {"name": "jpeg", "quality": 95}]
    return {
        "SR": enlarge,
        "WD+SR": [paper.WAVELET, enlarge],
        "WD+JPEG+SR": [paper.WAVELET, *file, {**enlarge, "round_to_8_bits": True}],
        "WD (channel)+SR": [channel, enlarge],
        "as released": {"name": "paper_released", "network": network},
    }


def get_config(argument: str = "") -> ConfigDict:
    """One classifier, all networks or one."""
    chosen = common.parse_arg(
        argument,
        classifier=common.choice(*CLASSIFIERS),
        network=common.choice("all", *NETWORKS),
    )
    networks = NETWORKS if chosen.network == "all" else {chosen.network: NETWORKS[chosen.network]}
    name, size = CLASSIFIERS[chosen.classifier]
    config = nips2017.get_config()
    config.dataset.size = size
    config.dataset.limit = 200
    config.classifier = ConfigDict({"name": name, "pretrained": True})
    attacks = quickstart.attacks()
    config.attacks = ConfigDict(
        {
            "FGSM-2": attacks["FGSM-2"],
            "MI-FGSM 4": {**attacks["MI-FGSM"], "epsilon": 4 / 255},
            "MI-FGSM 16": attacks["MI-FGSM"],
        }
    )
    config.defenses = ConfigDict(
        {
            **paper.NO_DEFENSE,
            "WD": paper.WAVELET,
            "bicubic": paper.interpolation("bicubic"),
            **{
                f"{row}, {words}": defense
                for words, network in networks.items()
                for row, defense in rows(network).items()
            },
        }
    )
    return config
