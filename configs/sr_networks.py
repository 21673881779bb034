"""The super-resolution networks that come with srdef, as defenses: `--config=configs/sr_networks.py:lite0`.

Clean images, a weak single-step attack and a strong iterative one, on NIPS-2017 DEV (the folder that the
environment variable SRDEF_NIPS2017 names, or `--config.dataset.path`); bicubic interpolation by the same
factor is the control. `configs/table3.py` and `configs/table6.py` are the paper's own tables of networks and
factors.
"""

from ml_collections import ConfigDict

from srdef.configs import nips2017, paper

ATTACKS = ("FGSM-2", "MI-FGSM")
NETWORKS = {
    2: ("edsr_small_x2", "compact_x2"),
    3: ("compact_x3",),
    4: ("compact_x4",),
}


def get_config(argument: str = "") -> ConfigDict:
    """`lite0`: EfficientNet-Lite0 at 160 pixels; `lite2`: EfficientNet-Lite2 at 192; or the paper's."""
    config = nips2017.get_config(argument)
    config.attacks = ConfigDict({label: config.attacks[label] for label in ATTACKS})
    rows = dict(paper.NO_DEFENSE)
    for factor, networks in NETWORKS.items():
        rows[f"bicubic x{factor}"] = paper.interpolation("bicubic", factor=factor)
        rows |= {network: paper.super_resolution(network) for network in networks}
    config.defenses = ConfigDict(rows)
    return config
