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


def test_labels_are_the_papers_or_say_which_of_them_they_are():
    table = Reference(1, rows={"WD+SR (edsr_small_x2)": "WD+SR"}, columns={"C&W 3x60": "C&W"})
    assert table.percent("WD+SR", "FGSM-10") == 79.7
    assert table.percent("WD+SR (edsr_small_x2)", "C&W 3x60") == 96.0
    assert Reference(4).percent("nearest up, down", "clean") == 93.5
    assert Reference(1, "resnet50").percent("no defense", "I-FGSM") == 13.4
    # A label that only begins as the paper's is another.
    assert Reference(1).percent("WD+SR (edsr_small_x2)", "C&W") is None
    assert Reference(1).percent("WD+SR", "C&W 3x60") is None


def test_a_configuration_says_which_row_and_column_of_the_paper_its_own_are():
    config = {
        "paper": {"table": 5, "classifier": "resnet50"},
        "attacks": {"C&W 3x60": {"name": "carlini_wagner", "paper": "C&W"}, "FGSM-2": {"name": "fgsm"}},
        "defenses": {"mine": {"defense": [], "paper": "WD"}, "SR": {"name": "super_resolution"}, "x": []},
    }
    table = Reference.of(config)
    assert [table.percent("mine", attack) for attack in config["attacks"]] == [79.0, 41.4]
    assert table.percent("SR", "FGSM-2") == 85.4
    assert table.percent("x", "FGSM-2") is None
    assert Reference.of({**config, "paper": {"table": 6}}).percent("mine", "C&W 3x60") is None
    del config["paper"]
    assert Reference.of(config) is None


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_a_name_that_the_paper_does_not_have_is_refused(kind):
    with pytest.raises(InputError, match="'mine': the paper has no 'C&V'; choose from: "):
        Reference(1, **{kind: {"mine": "C&V"}})


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
        Reference.of({"paper": options, "attacks": {}, "defenses": {}})
