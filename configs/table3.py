"""The paper's Table 3: super-resolution networks by a factor of two, without wavelet denoising.

Arguments as `configs/paper.py` says. `edsr_small_x2`, `edsr_baseline_x2` and `compact_x2` come with srdef.
With `,downloads` come the authors' EDSR-baseline and full EDSR. For SRResNet and SRGAN there are no published
weights that srdef knows: name files of your own in SRDEF_SRRESNET and SRDEF_SRGAN, and their rows appear.
"""

import os

from ml_collections import ConfigDict

from srdef.configs import paper

# Rows whose weights are a file of the user's, by environment variable.
OWN = {"SRResNet": "SRDEF_SRRESNET", "SRGAN": "SRDEF_SRGAN"}


def get_config(argument: str = "") -> ConfigDict:
    """One row a network, and bicubic interpolation as a control."""
    config, chosen = paper.start(3, argument)
    rows = {
        **paper.NO_DEFENSE,
        "bicubic x2": paper.interpolation("bicubic"),
    }
    for label, variable in OWN.items():
        if os.environ.get(variable):
            rows[label] = {
                "name": "super_resolution",
                "network": f"{label.lower()}_x2",
                "weights": os.environ[variable],
            }
    rows["compact"] = paper.super_resolution("compact_x2")
    rows["EDSR (small)"] = paper.super_resolution("edsr_small_x2", paper="EDSR")
    rows["EDSR (baseline)"] = paper.super_resolution("edsr_baseline_x2", paper="EDSR")
    if chosen.downloads:
        rows["EDSR (baseline, official)"] = paper.super_resolution(
            "edsr_baseline_x2", weights="official", paper="EDSR"
        )
        rows["EDSR (full)"] = paper.super_resolution("edsr_x2", weights="official", paper="EDSR")
    config.defenses = ConfigDict(rows)
    return config
