"""The paper's Table 4: its nine ways of resizing by a factor of two.

Arguments as `configs/paper.py` says. "up" enlarges, "up, down" shrinks back, "down, up" enlarges back.
Resizing is Pillow's; nearest up and down again is the identity there, which the paper's was not.
"""

from ml_collections import ConfigDict

from srdef.configs import paper

METHODS = ("nearest", "bilinear", "bicubic")
ORDERS = {"up": "up", "up, down": "up_down", "down, up": "down_up"}


def get_config(argument: str = "") -> ConfigDict:
    """The nine columns of the paper as rows."""
    config, _ = paper.start(4, argument)
    rows = {
        f"{method} {words}": paper.interpolation(method, order)
        for method in METHODS
        for words, order in ORDERS.items()
    }
    config.defenses = ConfigDict({**paper.NO_DEFENSE, **rows})
    return config
