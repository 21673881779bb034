"""Do the paper's iterative attacks stop at the smallest ε? `--config=configs/smallest_epsilon.py:lite0`.

The paper's gradient-sign attacks before WD, SR and both, on NIPS-2017 DEV (the folder that the environment
variable SRDEF_NIPS2017 names, or `--config.dataset.path`), three times:

- with the budgets of `configs/table1.py`, in 8 bits;
- "min": by the default search of foolbox 1.8, the library that the paper used, for the smallest ε that fools
  the undefended classifier, of each image. I-FGSM and MI-FGSM have its default ε, step and iterations. These
  perturbations are smaller than a level: the images are kept as float32;
- I-FGSM and MI-FGSM at several ε in levels, as float32 too. `srdef report` draws the curves.

The argument is `classifier`, as in `configs/nips2017.py`; `network`, that of super-resolution; and `part`:
`table` for the first two, `curve` for the last, as in `smallest_epsilon:lite2,edsr_baseline_x2,table`, or
`diverse` for the smallest ε of DI²FGSM and MDI²FGSM, which foolbox 1.8 lacks: they are in no other part.
"""

from typing import Any

from ml_collections import ConfigDict

from srdef.configs import common, nips2017, paper, quickstart

# A label has no dots.
LEVELS = {"¼": 0.25, "½": 0.5, "1": 1, "2": 2, "4": 4, "8": 8, "16": 16}
USUAL = ("FGSM-2", "FGSM-5", "FGSM-10", "I-FGSM", "MI-FGSM", "DI²FGSM", "MDI²FGSM")


def ladder() -> dict[str, dict[str, Any]]:
    """I-FGSM and MI-FGSM at several ε, by label."""
    return {
        f"{label} {words}": {
            "name": name,
            "epsilon": level / 255,
            "storage": "float32",
            "paper": label,
        }
        for label, name in (("I-FGSM", "ifgsm"), ("MI-FGSM", "mifgsm"))
        for words, level in LEVELS.items()
    }


def get_config(argument: str = "") -> ConfigDict:
    """All three parts, or one."""
    chosen = common.parse_arg(
        argument,
        classifier=common.choice(*nips2017.CLASSIFIERS),
        network=common.choice(*paper.NETWORKS),
        part=common.choice("all", "table", "curve", "diverse"),
    )
    config = nips2017.get_config(chosen.classifier)
    usual = {label: quickstart.attacks()[label] for label in USUAL}
    parts = {
        "table": {**usual, **paper.smallest()},
        "curve": ladder(),
        "diverse": paper.smallest_diverse(),
    }
    parts["all"] = {**parts["table"], **parts["curve"]}
    config.attacks = ConfigDict(parts[chosen.part])
    enlarge = paper.super_resolution(chosen.network)
    config.defenses = ConfigDict(
        {**paper.NO_DEFENSE, "WD": paper.WAVELET, "SR": enlarge, "WD+SR": [paper.WAVELET, enlarge]}
    )
    config.gallery.attack = {"curve": "I-FGSM 16", "diverse": "DI²FGSM min"}.get(chosen.part, "I-FGSM")
    known = chosen.classifier in nips2017.PAPER
    config.paper = ConfigDict({"table": 5, "classifier": chosen.classifier if known else "inception_v3"})
    return config
