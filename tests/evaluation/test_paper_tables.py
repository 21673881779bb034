"""The paper's numbers: checksums against its text, agreement between its tables, look-up by label."""

import numpy as np
import pytest

from srdef.errors import InputError
from srdef.evaluation import paper_tables
from srdef.evaluation.paper_tables import TABLES, Reference

# The sums of all numbers, taken from the text of the paper by a script and not from the data.
SUMS = {1: 10916.1, 2: 4149.8, 3: 2572.2, 4: 3830.2, 5: 7141.5, 6: 827.7}


@pytest.mark.parametrize("number", TABLES)
def test_all_numbers_are_there(number):
    table = TABLES[number]
    rows = [row for defenses in table.rows.values() for row in defenses.values()]
    assert all(len(row) == len(table.attacks) for row in rows)
    assert sum(map(sum, rows)) == pytest.approx(SUMS[number], abs=1e-6)


def test_tables_agree_where_they_overlap():
    for classifier, rows in paper_tables.TABLE_5.items():
        for defense in ("no defense", "WD+SR"):
            same = np.isclose(rows[defense], paper_tables.TABLE_1[classifier][defense])
            assert same.all()
    inception = paper_tables.TABLE_5["inception_v3"]
    assert paper_tables.TABLE_3["inception_v3"]["no defense"] == inception["no defense"]
    assert paper_tables.TABLE_3["inception_v3"]["EDSR"] == inception["SR"]


def test_labels_may_say_more_than_the_papers():
    table = Reference(1)
    assert table.percent("WD+SR", "FGSM-10") == 79.7
    assert table.percent("WD+SR (edsr_small_x2)", "C&W 3x60") == 96.0
    assert Reference(5).percent("WD (db2)", "clean") == 94.0
    assert Reference(4).percent("nearest up, down", "clean") == 93.5
    assert Reference(6).percent("S = 3 (EDSR-baseline)", "FGSM-2") == 76.2
    assert Reference(1, "resnet50").percent("no defense", "I-FGSM") == 13.4


def test_what_the_paper_does_not_have_is_none():
    assert Reference(1).percent("TVM", "clean") is None
    assert Reference(1).percent("JPEGs", "clean") is None
    assert Reference(6).percent("S = 2", "DeepFool") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": 7}, "table 7; choose from: 1, 2, 3, 4, 5, 6"),
        ({"table": 2, "classifier": "resnet50"}, "'resnet50'; choose from: inception_v3"),
        ({"classifier": "resnet50"}, "must have the fields table and classifier"),
        ({"table": 1, "row": 2}, "must have the fields table and classifier"),
        (1, "must have the fields table and classifier"),
    ],
)
def test_bad_references(options, message):
    with pytest.raises(InputError, match=message):
        Reference.of(options)
