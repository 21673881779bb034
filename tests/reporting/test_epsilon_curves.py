"""Curves of accuracy against ε from what a gray-box run leaves."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from srdef.evaluation.gray_box import RECORDS
from srdef.reporting import epsilon_curves, page

LEVELS = (1, 2, 4, 8, 16)
ACCURACY = {"no defense": (0,) * 5, "SR": (0.9, 0.8, 0.6, 0.4, 0.2), "WD": (0.5, 0.5, 0.4, 0.1, 0.0)}
CLEAN = {"no defense": 1.0, "SR": 0.9, "WD": 0.8}
PAPER = {("SR", "clean"): 96.0, ("WD", "clean"): 90.0}


def cell(defense, attack, value, paper=None):
    found = {"defense": defense, "attack": attack, "successes": int(10 * value), "total": 10}
    found |= {"value": value, "low": value / 2, "high": min(1, value + 0.1)}
    return found | {"paper_percent": PAPER.get((defense, attack)) if attack == "clean" else paper}


@pytest.fixture
def run():
    """A run with MI-FGSM at five ε, stored in two ways at one of them, and at the smallest ε."""
    entries = {
        f"MI {level}": {"name": "mifgsm", "epsilon": level / 255, "storage": "float32", "paper": "MI-FGSM"}
        for level in LEVELS
    }
    entries["MI-FGSM"] = {**entries["MI 16"], "storage": "uint8"}
    entries["MI min"] = {
        "name": "minimal_epsilon",
        "attack": {"name": "mifgsm", "epsilon": 0.3},
        "paper": "MI-FGSM",
    }
    entries |= {f"FGSM-{level}": {"name": "fgsm", "epsilon": level / 255} for level in (2, 5, 10)}
    cells = []
    for defense, accuracies in ACCURACY.items():
        cells.append(cell(defense, "clean", CLEAN[defense]))
        for level, value in zip(LEVELS, accuracies, strict=True):
            cells.append(cell(defense, f"MI {level}", value, 70.0))
        cells += [cell(defense, label, 0.05, 70.0) for label in ("MI-FGSM", "FGSM-2", "FGSM-5", "FGSM-10")]
        cells.append(cell(defense, "MI min", CLEAN[defense], 70.0))
    config = {
        "attacks": entries,
        "defenses": {"no defense": {"name": "identity"}, "SR": {"name": "bilinear"}, "WD": [{"name": "x"}]},
    }
    # As a canonical configuration is sorted, but the table is not.
    table = {"defenses": list(ACCURACY), "attacks": ["clean", *entries], "cells": cells}
    strengths = [
        {"attack": "MI min", "storage": "float32", "median_linf": 0.25 / 255},
        {"attack": "MI min", "storage": "uint8", "median_linf": 1 / 255},
    ]
    return config, table, strengths


def test_an_attack_at_several_epsilons_has_a_curve_for_each_defense(run):
    curves = epsilon_curves.find(*run)
    assert [(curve.defense, curve.attack) for curve in curves] == [("SR", "MI-FGSM"), ("WD", "MI-FGSM")]
    for curve in curves:
        assert [point.epsilon for point in curve.points] == pytest.approx(LEVELS)
        assert tuple(point.cell["value"] for point in curve.points) == ACCURACY[curve.defense]
        (smallest,) = curve.smallest
        assert smallest.label == "MI min"
        assert smallest.epsilon == pytest.approx(0.25)  # of the images as they were counted
        assert smallest.cell["value"] == CLEAN[curve.defense]
        assert curve.paper == 70.0


def test_the_paper_s_numbers_at_several_epsilons_are_no_line(run):
    """As of FGSM-2, 5 and 10: that of the largest ε would stand for all of them."""
    _, table, _ = run
    for cell in table["cells"]:
        if cell["attack"] == "MI 2":
            cell["paper_percent"] = 90.0
    curves = epsilon_curves.find(*run)
    assert [curve.paper for curve in curves] == [None, None]
    assert all(row["paper"] == "" for row in csv.DictReader(epsilon_curves.to_csv(curves).splitlines()))
    assert "above" not in epsilon_curves.to_markdown(curves)


def replaced(run, **changes):
    """The run with its MI-FGSM at five ε as another attack."""
    config, table, strengths = run
    for level in LEVELS:
        entry = {**config["attacks"][f"MI {level}"], "paper": "mine", **changes}
        config["attacks"][f"MI {level}"] = entry
    return config, table, strengths


@pytest.mark.parametrize(
    ("changes", "norm"),
    [
        ({"name": "pgd", "norm": "l2"}, None),
        ({"name": "pgd_l2"}, None),
        ({"name": "mine.py:attack"}, "l2"),
    ],
)
def test_radii_of_other_norms_are_no_levels(run, changes, norm):
    config, table, strengths = replaced(run, **changes)
    if norm:
        strengths += [{"attack": f"MI {level}", "norm": norm} for level in LEVELS]
    assert epsilon_curves.find(config, table, strengths) == []


@pytest.mark.parametrize("changes", [{"name": "pgd", "norm": "linf"}, {"name": "mine.py:attack"}])
def test_other_attacks_in_linf_have_curves(run, changes):
    assert {curve.attack for curve in epsilon_curves.find(*replaced(run, **changes))} == {"mine"}


def test_the_smallest_radius_in_another_norm_is_no_point_of_a_curve(run):
    config, table, strengths = replaced(run, name="pgd", norm="linf")
    config["attacks"]["MI min"] |= {"attack": {"name": "pgd", "norm": "l2", "epsilon": 1.0}, "paper": "mine"}
    assert all(not curve.smallest for curve in epsilon_curves.find(config, table, strengths))


def test_curves_of_one_attack_with_other_options_are_told_apart(run, tmp_path):
    config, table, strengths = run
    for level in LEVELS:
        config["attacks"][f"long {level}"] = {**config["attacks"][f"MI {level}"], "steps": 50}
        table["attacks"].append(f"long {level}")
        table["cells"] += [cell(defense, f"long {level}", 0.1) for defense in ACCURACY]
    curves = epsilon_curves.find(config, table, strengths)
    assert [curve.attack for curve in curves] == ["MI-FGSM", "MI-FGSM, steps 50"] * 2
    assert all(curve.smallest[0].label == "MI min" for curve in curves)
    text = epsilon_curves.to_csv(curves)
    assert {row["attack"] for row in csv.DictReader(text.splitlines())} == {"MI-FGSM", "MI-FGSM, steps 50"}
    epsilon_curves.save(tmp_path, curves)


def test_every_search_for_the_smallest_radius_is_a_point(run, tmp_path):
    """Two searches around one attack, as by two rules, and of the second no median is known for 8 bits."""
    config, table, strengths = run
    config["attacks"]["MI bisected"] = {**config["attacks"]["MI min"], "search": "bisection"}
    table["attacks"].append("MI bisected")
    table["cells"] += [cell(defense, "MI bisected", 0.4) for defense in ACCURACY]
    strengths.append({"attack": "MI bisected", "storage": "float32", "median_linf": 0.125 / 255})
    curves = epsilon_curves.find(config, table, strengths)
    for curve in curves:
        assert [point.label for point in curve.smallest] == ["MI min", "MI bisected"]
    assert "| MI min: 0.25, 90.0; MI bisected: 0.12, 40.0 |" in epsilon_curves.to_markdown(curves)
    rows = list(csv.DictReader(epsilon_curves.to_csv(curves).splitlines()))
    assert [row["label"] for row in rows if row["defense"] == "SR"][-2:] == ["MI min", "MI bisected"]
    epsilon_curves.save(tmp_path, curves)


def test_no_attack_at_all_is_no_point_of_a_curve(run):
    """On a logarithmic axis 0 is the place of the clean images."""
    config, table, strengths = run
    config["attacks"]["MI 1"] = {**config["attacks"]["MI 1"], "epsilon": 0.0}
    for curve in epsilon_curves.find(config, table, strengths):
        assert [point.epsilon for point in curve.points] == pytest.approx(LEVELS[1:])


def test_large_epsilons_are_written_as_numbers(run):
    config, table, strengths = run
    for entry in config["attacks"].values():
        if entry.get("epsilon", 1) < 1:
            entry["epsilon"] *= 10
    strengths[0]["median_linf"] = 130.4 / 255
    text = epsilon_curves.to_markdown(epsilon_curves.find(config, table, strengths))
    assert "| 130, " in text
    assert "e+0" not in text


def test_where_a_curve_comes_down_to_an_accuracy(run):
    sr, wd = epsilon_curves.find(*run)
    assert sr.crossing(70) == pytest.approx(3.0)  # half way from 80 % at 2 to 60 % at 4
    assert sr.crossing(95) == 0.0
    assert wd.crossing(65) == pytest.approx(0.5)  # from 80 % at 0 to 50 % at 1
    assert sr.crossing(10) is None
    assert sr.paper_share == pytest.approx(70 / 96)


def test_fewer_epsilons_or_no_defense_make_no_curve(run):
    config, table, strengths = run
    table["attacks"].remove("MI 1")
    assert epsilon_curves.find(config, table, strengths)
    table["attacks"].remove("MI 2")
    assert not epsilon_curves.find(config, table, strengths)


def test_without_the_paper_and_without_the_smallest(run):
    config, table, _ = run
    for found in table["cells"]:
        del found["paper_percent"]
    curves = epsilon_curves.find(config, table, [])
    assert all(not curve.smallest and curve.paper is None for curve in curves)
    assert "| SR | MI-FGSM | 90.0 | – | – | – | – | – |" in epsilon_curves.to_markdown(curves)


def test_files(run, tmp_path):
    written = epsilon_curves.save(tmp_path, epsilon_curves.find(*run))
    assert {path.name for path in written} == {f"epsilon_curves.{e}" for e in ("pdf", "png", "csv", "md")}
    assert Image.open(tmp_path / "epsilon_curves.png").width > 1000
    rows = list(csv.DictReader((tmp_path / "epsilon_curves.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * (len(LEVELS) + 1)
    assert rows[2] == {
        "defense": "SR",
        "attack": "MI-FGSM",
        "label": "MI 4",
        "epsilon": "4",
        "accuracy": "60.00",
        "low": "30.00",
        "high": "70.00",
        "images": "10",
        "clean": "90.00",
        "paper": "70.0",
    }
    # 72.9 % of the paper's clean accuracy is 65.6 % here: between 80 % at 2 and 60 % at 4.
    words = (tmp_path / "epsilon_curves.md").read_text(encoding="utf-8")
    assert "| SR | MI-FGSM | 90.0 | 0.25, 90.0 | 70.0 | 3 | 72.9 | 3.4 |" in words
    assert "| WD | MI-FGSM | 80.0 | 0.25, 80.0 | 70.0 | 0.33 | 77.8 | 0.59 |" in words


def test_the_report_page_shows_them(run, tmp_path):
    config, table, strengths = run
    clean = {"successes": 10, "total": 12, "value": 10 / 12, "low": 0.5, "high": 0.9}
    table |= {"classifier": "toy", "clean_accuracy": clean, "metric": "share", "interval": "interval"}
    table |= {"seed": 0, "notes": []}
    fooled = {"successes": 10, "total": 10, "value": 1.0, "low": 0.7, "high": 1.0}
    for row in strengths:
        row |= {"fooled": fooled, "median_l2": 0.1}
    for name, content in (("config", config), ("table", table), ("attacks", strengths), ("environment", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    kinds = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in RECORDS.items()])
    pq.write_table(kinds.empty_table(), tmp_path / "records.parquet")
    text = page.build(tmp_path, count=0)
    assert "<h2>Accuracy against ε</h2>" in text
    assert 'src="data:image/png;base64,' in text
    assert "<td>SR</td>" in text
    assert (tmp_path / "epsilon_curves.pdf").stat().st_size > 1000
    # Without a curve there is nothing of it.
    del config["attacks"]["MI 1"], config["attacks"]["MI 2"]
    table["attacks"] = [label for label in table["attacks"] if label not in ("MI 1", "MI 2")]
    for name, content in (("config", config), ("table", table)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert "Accuracy against ε" not in page.build(tmp_path, count=0)
