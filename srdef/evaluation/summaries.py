"""How strong the attacks were against the undefended classifier: success and distances."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import rich.box
from rich.table import Table

from srdef.metrics import Rate, rate

CAPTION = (
    "undefended classifier; medians over the images that were fooled; L∞ in levels of 255, L2 on [0, 1]; "
    "uint8: what an 8-bit file would hold"
)


@dataclass(frozen=True)
class Strength:
    """One attack, with its images kept in one way.

    Attributes
    ----------
    attack : str
    storage : "float32" or "uint8"
    success : Rate
        Share of the clean-correct images that were fooled.
    linf, l2 : float or None
        Median distances of the fooled images, in units of the [0, 1] range; None if none was.
    """

    attack: str
    storage: str
    success: Rate
    linf: float | None
    l2: float | None

    @classmethod
    def of(
        cls, attack: str, storage: str, success: np.ndarray, linf: np.ndarray, l2: np.ndarray
    ) -> "Strength":
        """From per-image arrays `(N,)`; `success` is boolean."""
        medians = [float(np.median(d[success])) if success.any() else None for d in (linf, l2)]
        return cls(attack, storage, rate(success), *medians)

    def cells(self) -> list[str]:
        """The row of a table."""
        linf = "–" if self.linf is None else f"{255 * self.linf:.3g}"
        l2 = "–" if self.l2 is None else f"{self.l2:.3g}"
        share = f"{100 * self.success.value:.1f}"
        return [self.attack, self.storage, share, linf, l2]


HEADER = ("attack", "stored as", "fooled (%)", "median L∞", "median L2")


def to_rich(strengths: Sequence[Strength]) -> Table:
    """For the terminal."""
    table = Table(title="Attacks", caption=CAPTION, box=rich.box.SIMPLE_HEAD)
    for name in HEADER:
        table.add_column(name, justify="left" if name in HEADER[:2] else "right")
    for strength in strengths:
        table.add_row(*strength.cells())
    return table


def to_markdown(strengths: Sequence[Strength]) -> str:
    """A GitHub table."""
    lines = ["**Attacks.**", "", "| " + " | ".join(HEADER) + " |", "|---|---|---:|---:|---:|"]
    lines += ["| " + " | ".join(strength.cells()) + " |" for strength in strengths]
    return "\n".join([*lines, "", CAPTION[0].upper() + CAPTION[1:] + "."]) + "\n"


def to_json(strengths: Sequence[Strength], stores: Mapping[str, str]) -> str:
    """All numbers, unrounded, and for each attack the name of the folder that holds its images."""
    rows = [
        {
            "attack": strength.attack,
            "storage": strength.storage,
            "fooled": strength.success._asdict(),
            "median_linf": strength.linf,
            "median_l2": strength.l2,
            "store": stores[strength.attack],
        }
        for strength in strengths
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
