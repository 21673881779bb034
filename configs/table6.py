"""The paper's Table 6: enlarging by 2, 3 and 4 before FGSM-2 and C&W.

Arguments as `configs/paper.py` says. The rows S = 2, 3 and 4 are by srdef's compact networks, which are no
EDSR, and S = 2 by its small EDSR and its EDSR-baseline too; those by the authors' EDSR-baseline need
`,downloads`. Bicubic interpolation is the control: how large an image the classifier still reads is most of
what this table shows.
"""

from ml_collections import ConfigDict

from srdef.configs import paper

SCALES = (2, 3, 4)


def get_config(argument: str = "") -> ConfigDict:
    """One row a scale."""
    config, chosen = paper.start(6, argument)
    cw = next(label for label, attack in config.attacks.items() if attack.name == "carlini_wagner")
    config.attacks = ConfigDict({label: config.attacks[label] for label in ("FGSM-2", cw)})
    rows = {
        **paper.NO_DEFENSE,
        **{f"bicubic x{scale}": paper.interpolation("bicubic", factor=scale) for scale in SCALES},
        **{f"S = {scale}": paper.super_resolution(f"compact_x{scale}") for scale in SCALES},
        "S = 2 (EDSR, small)": paper.super_resolution("edsr_small_x2", paper="S = 2"),
        "S = 2 (EDSR-baseline)": paper.super_resolution("edsr_baseline_x2", paper="S = 2"),
    }
    if chosen.downloads:
        for scale in SCALES:
            rows[f"S = {scale} (EDSR-baseline, official)"] = paper.super_resolution(
                f"edsr_baseline_x{scale}", weights="official", paper=f"S = {scale}"
            )
    config.defenses = ConfigDict(rows)
    return config
