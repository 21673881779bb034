"""The numbers of the paper: Tables 1 to 6 of Mustafa et al. (IEEE TIP 2020, arXiv:1901.01677).

All in percent, as printed; classifiers, defenses and attacks have the names that srdef's configurations
give them. Tables 1, 3, 5 and 6 count images that are classified correctly when clean ("clean" without a
defense is 100), Table 2 all images (95.9), and Table 4 does not say which. Table 6's "FGSM" is
FGSM-2 (section 4.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from srdef.errors import InputError

ATTACKS = (
    "clean",
    "FGSM-2",
    "FGSM-5",
    "FGSM-10",
    "I-FGSM",
    "DeepFool",
    "C&W",
    "MI-FGSM",
    "DI²FGSM",
    "MDI²FGSM",
)

# By classifier, then by defense: the columns of ATTACKS.
Rows = dict[str, dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Attributes
    ----------
    metric : str
        What its numbers are, and of which images.
    attacks : tuple of str
        The columns.
    rows : dict
        By classifier and defense, the numbers in the order of `attacks`, in percent.
    """

    metric: str
    rows: Rows
    attacks: tuple[str, ...] = ATTACKS


TABLE_1: Rows = {
    "inception_v3": {
        "no defense": (100, 31.7, 28.7, 30.5, 11.4, 0.4, 0.8, 1.7, 1.4, 0.6),
        "JPEG": (96.0, 62.3, 54.7, 48.8, 77.5, 81.2, 80.5, 69.4, 2.1, 1.3),
        "resize + pad": (97.3, 69.2, 57.3, 53.2, 90.6, 88.9, 89.5, 89.5, 7.0, 5.8),
        "quilting + TVM": (96.2, 70.2, 62.0, 54.6, 85.7, 85.9, 85.3, 84.5, 4.1, 1.7),
        "pixel deflection": (91.9, 71.1, 66.7, 58.9, 90.9, 88.1, 90.4, 90.1, 57.6, 21.9),
        "WD+SR": (97.0, 94.2, 87.9, 79.7, 96.2, 96.1, 96.0, 95.9, 67.9, 31.7),
    },
    "resnet50": {
        "no defense": (100, 12.2, 7.0, 6.1, 13.4, 1.0, 0.1, 0.4, 0.3, 0.2),
        "JPEG": (92.8, 57.6, 49.0, 42.9, 74.8, 77.3, 81.3, 70.8, 0.7, 0.4),
        "resize + pad": (92.5, 66.8, 55.7, 48.8, 88.2, 90.9, 87.5, 88.0, 6.6, 4.2),
        "quilting + TVM": (93.1, 69.7, 61.0, 53.3, 85.4, 85.0, 84.6, 83.8, 3.6, 1.1),
        "pixel deflection": (92.7, 84.6, 77.0, 66.8, 91.2, 90.3, 91.7, 89.6, 57.0, 29.5),
        "WD+SR": (93.9, 86.1, 77.2, 64.9, 92.3, 91.5, 93.1, 92.0, 60.7, 31.9),
    },
    "inception_resnet_v2": {
        "no defense": (100, 59.4, 55.0, 53.6, 21.6, 0.1, 0.3, 0.5, 1.5, 0.6),
        "JPEG": (95.5, 67.0, 55.3, 53.7, 81.3, 83.9, 83.1, 72.8, 1.6, 1.1),
        "resize + pad": (98.7, 70.7, 59.1, 55.8, 87.5, 89.7, 88.0, 88.3, 7.5, 5.3),
        "quilting + TVM": (95.6, 74.6, 67.3, 59.0, 86.5, 86.2, 85.3, 84.8, 4.5, 1.2),
        "pixel deflection": (92.1, 78.2, 75.7, 71.6, 91.3, 88.9, 89.7, 89.8, 57.9, 24.6),
        "WD+SR": (98.2, 95.3, 87.4, 82.3, 95.8, 96.0, 95.6, 95.0, 69.8, 35.6),
    },
}

# This table and those after it are printed with one row an attack.
TABLE_2: Rows = {
    "inception_v3": {
        "no defense": (95.9, 22.1, 20.0, 23.1, 10.1, 1.0, 0.3, 1.4, 1.7, 0.6),
        "JPEG": (89.7, 58.3, 50.2, 43.5, 75.8, 77.0, 76.3, 72.4, 2.0, 1.3),
        "resize + pad": (92.0, 65.2, 52.7, 47.5, 85.3, 84.7, 84.8, 83.6, 5.1, 4.0),
        "quilting + TVM": (88.8, 68.3, 58.0, 50.5, 80.9, 80.1, 80.3, 78.2, 3.1, 1.8),
        "pixel deflection": (86.5, 70.7, 62.9, 54.2, 86.2, 84.2, 84.9, 84.0, 54.6, 20.4),
        "SR": (90.4, 87.1, 79.6, 69.8, 89.7, 90.2, 90.5, 89.4, 48.9, 26.1),
        "WD+SR": (90.9, 87.5, 79.9, 70.1, 90.1, 90.4, 90.7, 89.8, 63.8, 28.7),
    },
}

TABLE_3: Rows = {
    "inception_v3": {
        "no defense": (100.0, 31.7, 28.7, 30.5, 11.4, 0.4, 0.8, 1.7, 1.4, 0.6),
        "SRResNet": (94.0, 89.5, 83.7, 69.9, 93.4, 93.2, 93.3, 92.6, 54.3, 24.9),
        "SRGAN": (92.3, 85.7, 80.1, 69.0, 91.0, 93.0, 91.3, 87.6, 48.9, 23.0),
        "EDSR": (96.2, 92.6, 85.7, 73.3, 95.9, 95.5, 95.6, 95.2, 57.2, 27.1),
    },
}

TABLE_4: Rows = {
    "inception_v3": {
        "nearest up": (94.9, 74.2, 61.0, 52.9, 86.4, 87.3, 82.5, 81.4, 36.0, 16.1),
        "nearest up, down": (93.5, 25.9, 18.6, 16.8, 45.9, 43.0, 44.4, 41.0, 5.8, 3.8),
        "nearest down, up": (84.1, 23.8, 18.1, 16.0, 43.0, 41.2, 41.2, 38.0, 3.9, 2.0),
        "bilinear up": (94.3, 73.5, 60.5, 50.1, 83.4, 80.6, 80.1, 80.0, 34.8, 10.2),
        "bilinear up, down": (91.1, 24.0, 18.1, 15.7, 41.9, 40.7, 41.9, 42.9, 6.1, 3.9),
        "bilinear down, up": (86.2, 21.4, 17.0, 15.4, 40.6, 39.7, 37.6, 40.3, 4.9, 3.5),
        "bicubic up": (93.9, 71.2, 54.8, 49.2, 82.1, 80.1, 79.3, 80.7, 31.2, 9.6),
        "bicubic up, down": (89.1, 20.3, 18.7, 16.2, 37.5, 34.5, 39.6, 41.2, 7.8, 2.0),
        "bicubic down, up": (86.0, 19.5, 18.0, 15.8, 35.6, 30.1, 36.0, 39.8, 5.6, 1.7),
    },
}

TABLE_5: Rows = {
    "inception_v3": {
        "no defense": (100, 31.7, 28.7, 30.5, 11.4, 0.4, 0.8, 1.7, 1.4, 0.6),
        "WD": (94.0, 57.3, 36.4, 32.7, 76.4, 74.9, 76.3, 77.0, 18.3, 5.8),
        "SR": (96.2, 92.6, 85.7, 73.3, 95.9, 95.5, 95.6, 95.2, 57.2, 27.1),
        "WD+SR": (97.0, 94.2, 87.9, 79.7, 96.2, 96.1, 96.0, 95.9, 67.9, 31.7),
    },
    "resnet50": {
        "no defense": (100, 12.2, 7.0, 6.1, 13.4, 1.0, 0.1, 0.4, 0.3, 0.2),
        "WD": (92.7, 41.4, 12.7, 8.6, 71.2, 71.8, 79.0, 71.2, 17.9, 9.4),
        "SR": (93.2, 85.4, 74.0, 60.5, 91.0, 89.3, 92.0, 89.6, 49.8, 22.4),
        "WD+SR": (93.9, 86.1, 77.2, 64.9, 92.3, 91.5, 93.1, 92.0, 60.7, 31.9),
    },
    "inception_resnet_v2": {
        "no defense": (100, 59.4, 55.0, 53.6, 21.6, 0.1, 0.3, 0.5, 1.5, 0.6),
        "WD": (94.0, 70.5, 57.5, 55.4, 82.6, 79.1, 81.0, 80.6, 11.9, 6.9),
        "SR": (97.2, 91.8, 85.7, 79.4, 94.3, 95.4, 94.0, 93.0, 57.6, 29.4),
        "WD+SR": (98.2, 95.3, 87.4, 82.3, 95.8, 96.0, 95.6, 95.0, 69.8, 35.6),
    },
}

TABLE_6: Rows = {
    "inception_v3": {
        "no defense": (100, 31.7, 0.3),
        "S = 2": (97.2, 92.9, 95.8),
        "S = 3": (79.0, 76.2, 77.7),
        "S = 4": (59.2, 58.8, 58.9),
    },
}

# Every row of every table.
DEFENSES = tuple(
    dict.fromkeys(
        name
        for table in (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6)
        for rows in table.values()
        for name in rows
    )
)

_CORRECT = "top-1 accuracy on ILSVRC validation images that it has right when clean"

TABLES = {
    1: PaperTable(f"{_CORRECT} (5000)", TABLE_1),
    2: PaperTable("top-1 accuracy on all images of NIPS-2017 DEV", TABLE_2),
    3: PaperTable(_CORRECT, TABLE_3),
    4: PaperTable("top-1 accuracy on NIPS-2017 DEV (all images or the clean-correct: not said)", TABLE_4),
    5: PaperTable(_CORRECT, TABLE_5),
    6: PaperTable(f"{_CORRECT} (500)", TABLE_6, ("clean", "FGSM-2", "C&W")),
}


@dataclass(frozen=True)
class Reference:
    """A table of the paper for one of its classifiers, whose numbers are shown beside ours.

    Parameters
    ----------
    table : int
        1 to 6.
    classifier : str
        One of the table's: inception_v3, resnet50 or inception_resnet_v2.
    rows, columns : mapping of str to str
        The paper's name of a defense or an attack whose label here is another: {"C&W 3x60": "C&W"}.

    Raises
    ------
    InputError
        If the paper has no such table, the table no such classifier, or the paper no such defense or
        attack.
    """

    table: int
    classifier: str = "inception_v3"
    rows: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            known = ", ".join(map(str, TABLES))
            raise InputError(f"the paper has no numbers in a table {self.table!r}; choose from: {known}")
        known = ", ".join(TABLES[self.table].rows)
        if self.classifier not in TABLES[self.table].rows:
            raise InputError(
                f"the paper's table {self.table} has no classifier {self.classifier!r}; choose from: {known}"
            )
        for kind, names, printed in (("defense", self.rows, DEFENSES), ("attack", self.columns, ATTACKS)):
            for label, name in names.items():
                if name not in printed:
                    raise InputError(
                        f"{kind} {label!r}: the paper has no {name!r}; choose from: {', '.join(printed)}"
                    )

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Reference | None":
        """The table that `config.paper` names, `{"table": 1, "classifier": "inception_v3"}`; None if none.

        An attack or a defense that has another label than the paper's says so in its field `paper`.
        """
        if "paper" not in config:
            return None
        options = config["paper"]
        if not isinstance(options, Mapping) or not {"table"} <= set(options) <= {"table", "classifier"}:
            raise InputError(f"config.paper must have the fields table and classifier, not {options!r}")
        rows, columns = (
            {
                label: entry["paper"]
                for label, entry in config[field].items()
                if isinstance(entry, Mapping) and "paper" in entry
            }
            for field in ("defenses", "attacks")
        )
        return cls(**options, rows=rows, columns=columns)

    def percent(self, defense: str, attack: str) -> float | None:
        """The paper's number for the labels of a row and a column of ours, or None."""
        table = TABLES[self.table]
        row = table.rows[self.classifier].get(self.rows.get(defense, defense))
        column = self.columns.get(attack, attack)
        if row is None or column not in table.attacks:
            return None
        return row[table.attacks.index(column)]

    @property
    def note(self) -> str:
        """What the numbers are, in words."""
        return (
            f"(paper …): Table {self.table} of Mustafa et al. (arXiv:1901.01677), {self.classifier}: "
            f"{TABLES[self.table].metric}."
        )
