"""The table of accuracies, counted by hand and rendered."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from srdef.errors import InputError
from srdef.evaluation.paper_tables import Reference
from srdef.evaluation.summaries import Strength, summarize
from srdef.metrics import rate, wilson_interval
from srdef.reporting import tables

# 5 images, of which 0, 1, 2 and 3 are clean-correct; which are right after attack and defense:
RIGHT = {
    ("none", "clean"): {0, 1, 2, 3},
    ("none", "mifgsm"): {2},
    ("none", "fgsm"): {0, 2, 4},
    ("wd", "clean"): {0, 1, 2, 4},
    ("wd", "mifgsm"): set(),
    ("wd", "fgsm"): {0, 1, 3},
}


def rows_of(cells=RIGHT, classifier="lite0", images=range(5)):
    return [
        {
            "image_id": i,
            "classifier": classifier,
            "attack": attack,
            "defense": defense,
            "correct": i in right,
            "clean_correct": i < 4,
        }
        for (defense, attack), right in cells.items()
        for i in images
    ]


def build(rows, notes=(), paper=None, **options):
    return tables.ResultTable(summarize(pa.Table.from_pylist(rows), **options), 3, tuple(notes), paper)


@pytest.fixture
def table():
    return build(rows_of(), notes=["stored with 8 bits"])


def test_counts_only_clean_correct_images(table):
    counts = {key: (cell.successes, cell.total) for key, cell in table.summary.cells.items()}
    assert counts == {
        ("none", "clean"): (4, 4),
        ("none", "mifgsm"): (1, 4),
        ("none", "fgsm"): (2, 4),
        ("wd", "clean"): (3, 4),
        ("wd", "mifgsm"): (0, 4),
        ("wd", "fgsm"): (3, 4),
    }
    cell = table.summary.cells["none", "mifgsm"]
    assert (cell.value, cell.low, cell.high) == (0.25, *wilson_interval(1, 4))
    assert (table.summary.clean.successes, table.summary.clean.total) == (4, 5)


def test_order_is_that_of_the_records_or_as_asked(table):
    assert table.summary.attacks == ("clean", "mifgsm", "fgsm")
    assert table.summary.defenses == ("none", "wd")
    asked = build(rows_of(), attacks=["fgsm", "clean"], defenses=["wd", "none"])
    assert (asked.summary.attacks, asked.summary.defenses) == (("fgsm", "clean"), ("wd", "none"))
    assert asked.summary.cells["wd", "fgsm"] == table.summary.cells["wd", "fgsm"]


def test_order_of_the_rows_changes_no_number(table):
    turned = build(
        rows_of()[::-1], attacks=table.summary.attacks, defenses=table.summary.defenses, notes=table.notes
    )
    assert turned.to_json() == table.to_json()


def test_adversarial_images_may_be_only_the_clean_correct_ones(table):
    clean = {key: right for key, right in RIGHT.items() if key[1] == "clean"}
    adversarial = {key: right for key, right in RIGHT.items() if key[1] != "clean"}
    found = build(rows_of(clean) + rows_of(adversarial, images=range(4)))
    assert found.summary.cells == table.summary.cells
    assert found.summary.clean == table.summary.clean


def test_one_classifier_of_several(table):
    rows = rows_of() + rows_of({("none", "clean"): set()}, classifier="lite2")
    with pytest.raises(InputError, match="2 classifiers; choose from: lite0, lite2"):
        build(rows)
    assert build(rows, classifier="lite0").summary.cells == table.summary.cells
    with pytest.raises(InputError, match="no records of classifier 'lite1'; choose from: lite0, lite2"):
        build(rows, classifier="lite1")


def test_pairs_that_were_not_run_are_dashes():
    cells = {key: right for key, right in RIGHT.items() if key != ("wd", "mifgsm")}
    table = build(rows_of(cells))
    assert ("wd", "mifgsm") not in table.summary.cells
    wd = next(line for line in table.to_markdown().splitlines() if line.startswith("| wd"))
    assert wd.split("|")[3].strip() == "–"
    assert len(json.loads(table.to_json())["cells"]) == 5
    assert "–" in rendered(table)


def test_markdown(table):
    assert table.to_markdown() == (
        "**Accuracy after attack and defense (%).** "
        "lite0: 4 of 5 images classified correctly when clean (80.0 %), seed 3.\n"
        "\n"
        "| | clean | mifgsm | fgsm |\n"
        "|---|---:|---:|---:|\n"
        "| none | 100.0 [51.0–100.0] | 25.0 [4.6–69.9] | 50.0 [15.0–85.0] |\n"
        "| wd | 75.0 [30.1–95.4] | 0.0 [0.0–49.0] | 75.0 [30.1–95.4] |\n"
        "\n"
        "Share of the clean-correct images that are classified correctly after attack and defense; "
        "in brackets the 95 % Wilson score interval.\n"
        "\n"
        "stored with 8 bits\n"
    )


def test_json_has_all_numbers(table):
    found = json.loads(table.to_json())
    assert (found["classifier"], found["seed"], found["notes"]) == ("lite0", 3, ["stored with 8 bits"])
    assert (found["clean_accuracy"]["successes"], found["clean_accuracy"]["total"]) == (4, 5)
    assert (found["attacks"], found["defenses"]) == (["clean", "mifgsm", "fgsm"], ["none", "wd"])
    assert len(found["cells"]) == 6
    low, high = wilson_interval(1, 4)
    expected = {"defense": "none", "attack": "mifgsm", "successes": 1, "total": 4, "value": 0.25}
    assert found["cells"][1] == {**expected, "low": low, "high": high}


def rendered(table, width=80):
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(table.to_rich(width))
    return captured.get()


def test_terminal(table):
    text = rendered(table)
    assert "lite0: 4 of 5 images classified correctly when clean" in text
    assert "stored with 8 bits" in text
    lines = text.splitlines()
    none = next(i for i, line in enumerate(lines) if line.lstrip().startswith("none"))
    assert lines[none].split() == ["none", "100.0", "25.0", "50.0"]
    assert lines[none + 1].split() == ["[51–100]", "[5–70]", "[15–85]"]


def test_columns_that_do_not_fit_go_into_a_second_table(table):
    text = rendered(table, width=26)
    lines = text.splitlines()
    rows = [line.split() for line in lines if line.lstrip().startswith("none")]
    assert rows == [["none", "100.0", "25.0"], ["none", "50.0"]]
    assert not any("…" in line for line in lines)


def test_six_columns_fit_an_80_column_terminal():
    attacks = ("clean", "FGSM-2", "FGSM-5", "FGSM-10", "I-FGSM-16", "MI-FGSM-16")
    table = build(rows_of({("WD+SR", attack): {0, 1, 2, 3} for attack in attacks}))
    lines = rendered(table).splitlines()
    row = next(line for line in lines if "WD+SR" in line)
    assert row.split() == ["WD+SR", *["100.0"] * 6]
    assert max(len(line.rstrip()) for line in lines) <= 80
    heading = next(line for line in lines if "MI-FGSM-16" in line)
    assert heading.split() == list(attacks)


def test_names_with_markup_are_shown_as_they_are():
    table = build(rows_of({("a|b", "[bold]x"): {0}}))
    assert "[bold]x" in rendered(table)
    assert "| a\\|b |" in table.to_markdown()


def test_classifier_that_has_no_image_right():
    rows = [{**row, "clean_correct": False} for row in rows_of({("none", "clean"): set()})]
    table = build(rows)
    assert math.isnan(table.summary.cells["none", "clean"].value)
    assert json.loads(table.to_json())["cells"][0]["value"] is None
    assert "| none | – |" in table.to_markdown()
    assert "–" in rendered(table)


def test_incomplete_or_double_records():
    rows = rows_of()
    with pytest.raises(InputError, match="attack fgsm, defense wd: 3 records of 3 images for 4"):
        build(rows[:-2])
    with pytest.raises(InputError, match="attack clean, defense none: 5 records of 4 images for 4"):
        build(rows + rows[:1])
    with pytest.raises(InputError, match="disagree on which images are clean-correct"):
        build([*rows[:-1], {**rows[-1], "clean_correct": True}])


def test_unknown_names_and_columns():
    with pytest.raises(InputError, match="no records of attack 'deepfool'; choose from: clean, mifgsm, fgsm"):
        build(rows_of(), attacks=["deepfool"])
    with pytest.raises(InputError, match="no records of defense 'sr'; choose from: none, wd"):
        build(rows_of(), defenses=["sr"])
    with pytest.raises(InputError, match="records have no column 'correct'"):
        summarize(pa.Table.from_pylist(rows_of()).drop_columns("correct"))
    with pytest.raises(InputError, match="records of 0 classifiers; choose from: none"):
        summarize(pa.Table.from_pylist(rows_of()).slice(0, 0))


def test_the_papers_numbers_stand_beside_ours():
    cells = {("no defense", "clean"): {0, 1, 2, 3}, ("WD+SR", "clean"): {0}, ("WD+SR", "C&W 3x60"): {0, 1}}
    table = build(
        rows_of({**cells, ("none", "clean"): {1}}),
        paper=Reference(1, columns={"C&W 3x60": "C&W"}),
        notes=["a note"],
    )
    markdown = table.to_markdown()
    assert "| no defense | 100.0 [51.0–100.0] (paper 100.0) | – (paper 0.8) |" in markdown
    assert "| WD+SR | 25.0 [4.6–69.9] (paper 97.0) | 50.0 [15.0–85.0] (paper 96.0) |" in markdown
    assert "| none | 25.0 [4.6–69.9] | – |" in markdown  # a row that the paper does not have
    note = "(paper …): Table 1 of Mustafa et al. (arXiv:1901.01677), inception_v3: top-1 accuracy on ILSVRC"
    assert note in markdown
    assert "Not lite0." in markdown
    assert markdown.index("Not lite0.") < markdown.index("a note")
    assert rendered(table).count("(paper 97.0)") == 1
    assert max(map(len, rendered(table, width=30).splitlines())) <= 30
    found = json.loads(table.to_json())
    assert found["paper"] == {"table": 1, "classifier": "inception_v3"}
    assert [cell["paper_percent"] for cell in found["cells"]] == [100, 97.0, 96.0, None]


def test_the_papers_own_classifier_needs_no_warning():
    table = build(rows_of(classifier="inception_v3"), paper=Reference(1))
    assert "Not inception_v3" not in table.to_markdown()


def test_shares_of_no_images_are_null_in_json():
    """NaN is no JSON: where the classifier has no image right, no attack has one to fool."""
    strength = Strength("FGSM", "uint8", rate(np.zeros(0, bool)), None, None)
    (row,) = json.loads(tables.attacks_to_json([strength], {"FGSM": "f-1"}), parse_constant=pytest.fail)
    assert row["fooled"]["value"] is None
    assert row["fooled"]["total"] == 0
