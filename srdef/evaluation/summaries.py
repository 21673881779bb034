"""The numbers of tables, counted from what a gray-box run has stored.

`Strength` is how well one attack did against the undefended classifier, `Summary` the accuracies of all
defenses under all attacks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from srdef.errors import InputError
from srdef.metrics import Rate, accuracy_after_defense, rate

if TYPE_CHECKING:  # a third of a second of every start
    import pyarrow


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
    nonfinite, zero_gradient : int
        For how many images something was not finite on the way, or a gradient was exactly zero.
    """

    attack: str
    storage: str
    success: Rate
    linf: float | None
    l2: float | None
    nonfinite: int = 0
    zero_gradient: int = 0

    @classmethod
    def of(cls, attack: str, storage: str, measures: Mapping[str, np.ndarray]) -> "Strength":
        """Summarize the arrays `measures.MEASURES`, one entry an image; all but the distances are boolean."""
        success = measures["success"]
        linf, l2 = (float(np.median(measures[d][success])) if success.any() else None for d in ("linf", "l2"))
        nonfinite, zero = (int(measures[name].sum()) for name in ("nonfinite", "zero_gradient"))
        return cls(attack, storage, rate(success), linf, l2, nonfinite, zero)

    def numbers(self) -> dict[str, Any]:
        """Plain data, unrounded; the counts of what went wrong only if they are not 0."""
        counts = {"nonfinite": self.nonfinite, "zero_gradient": self.zero_gradient}
        return {
            "attack": self.attack,
            "storage": self.storage,
            "fooled": self.success._asdict(),
            "median_linf": self.linf,
            "median_l2": self.l2,
            **{name: count for name, count in counts.items() if count},
        }


@dataclass(frozen=True)
class Summary:
    """Accuracies after attack and defense of one classifier.

    Attributes
    ----------
    classifier : str
        Its name.
    clean : Rate
        Clean accuracy without a defense; `clean.successes` is the denominator of every cell.
    defenses, attacks : tuple of str
        Names of the rows and the columns, in order.
    cells : dict
        The `Rate` by (defense, attack); a pair that was not run is missing.
    """

    classifier: str
    clean: Rate
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    cells: dict[tuple[str, str], Rate]


def summarize(
    records: "pyarrow.Table",
    *,
    classifier: str | None = None,
    defenses: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
) -> Summary:
    """Count the per-image records of one classifier.

    Parameters
    ----------
    records : pyarrow.Table
        One row per (image, classifier, attack, defense); of its columns `image_id`, `classifier`,
        `attack`, `defense`, `correct` and `clean_correct` are read. Images that are not
        clean-correct need a record in one cell only: they count in the clean accuracy.
    classifier : str, optional
        Needed if the records hold more than one.
    defenses, attacks : sequence of str, optional
        Rows and columns, in this order; default: all, in the order of their first record.

    Raises
    ------
    InputError
        If there are no such records, or a cell lacks some of the clean-correct images or has one
        twice: shares over different images cannot be compared in one table.
    """
    needed = ("image_id", "classifier", "attack", "defense", "correct", "clean_correct")
    for name in needed:
        if name not in records.column_names:
            raise InputError(f"records have no column {name!r}; they have: {', '.join(records.column_names)}")
    columns = {name: records[name].to_numpy() for name in needed}
    known: list[str] = list(dict.fromkeys(columns["classifier"]))
    if classifier is None:
        if len(known) != 1:
            raise InputError(
                f"records of {len(known)} classifiers; choose from: {', '.join(known) or 'none'}"
            )
        classifier = known[0]
    if classifier not in known:
        raise InputError(f"no records of classifier {classifier!r}; choose from: {', '.join(known)}")
    ours = columns["classifier"] == classifier
    columns = {name: values[ours] for name, values in columns.items()}

    clean_of = dict(zip(columns["image_id"], columns["clean_correct"], strict=True))
    if any(
        clean_of[i] != flag for i, flag in zip(columns["image_id"], columns["clean_correct"], strict=True)
    ):
        raise InputError(f"records of {classifier} disagree on which images are clean-correct")
    clean = rate(np.array(list(clean_of.values()), bool))

    defenses = _choose("defense", defenses, columns["defense"])
    attacks = _choose("attack", attacks, columns["attack"])
    cells = {}
    for defense in defenses:
        for attack in attacks:
            rows = (columns["defense"] == defense) & (columns["attack"] == attack)
            if not rows.any():
                continue
            found = columns["image_id"][rows & columns["clean_correct"]]
            if len(found) != clean.successes or len(set(found)) != len(found):
                raise InputError(
                    f"records of {classifier}, attack {attack}, defense {defense}: {len(found)} records of "
                    f"{len(set(found))} images for {clean.successes} clean-correct images"
                )
            cells[defense, attack] = accuracy_after_defense(
                columns["clean_correct"][rows], columns["correct"][rows]
            )
    return Summary(classifier, clean, defenses, attacks, cells)


def _choose(kind: str, wanted: Sequence[str] | None, column: np.ndarray) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(column))
    for name in wanted or ():
        if name not in known:
            raise InputError(f"no records of {kind} {name!r}; choose from: {', '.join(known)}")
    return known if wanted is None else tuple(wanted)


def numbers(found: Rate) -> dict[str, float | int | None]:
    """A rate as plain data, None for the share of nothing."""
    return {**found._asdict(), "value": None if math.isnan(found.value) else found.value}
