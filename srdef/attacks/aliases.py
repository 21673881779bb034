"""Names by which attacks are looked up elsewhere: foolbox, torchattacks, ART, adv-lib and papers.

Beside these, capitals, hyphens and underscores do not matter: `MI-FGSM` is `mifgsm`, and `HopSkipJump`
`hop_skip_jump`.
"""

from collections.abc import Mapping
from typing import Any

ALIASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bim": ("ifgsm", {}),
    "mim": ("mifgsm", {}),
    "dim": ("mdi2fgsm", {}),
    "difgsm": ("di2fgsm", {}),
    "tim": ("tifgsm", {}),
    "ffgsm": ("fgsm", {"random_start": True}),
    "pgd_linf": ("pgd", {"norm": "linf"}),
    "pgd_l2": ("pgd", {"norm": "l2"}),
    "apgd_ce": ("apgd", {"loss": "cross_entropy"}),
    "apgd_dlr": ("apgd", {"loss": "dlr"}),
    "aa": ("autoattack", {}),
    "cw": ("carlini_wagner", {}),
    "cw_l2": ("carlini_wagner", {}),
    "elastic_net": ("ead", {}),
    "ead_l1": ("ead", {"rule": "l1"}),
    "fmn_l0": ("fmn", {"norm": "l0"}),
    "fmn_l1": ("fmn", {"norm": "l1"}),
    "fmn_l2": ("fmn", {"norm": "l2"}),
    "fmn_linf": ("fmn", {"norm": "linf"}),
    "deepfool_linf": ("deepfool", {"norm": "linf"}),
    "hsja": ("hop_skip_jump", {}),
    "simba_dct": ("simba", {"basis": "dct"}),
    "square_attack": ("square", {}),
    "square_l2": ("square", {"norm": "l2"}),
}
"""The registered name and the options that each stands for."""
