"""The HTML reports of adaptive, manifold and transfer runs: what their files say, in one page."""

import base64
import json
import re
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_page import Checker

from srdef.detection import experiment
from srdef.errors import InputError
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.gray_box import RECORDS
from srdef.evaluation.self_checks import Check
from srdef.evaluation.transfer_matrix import Matrix
from srdef.metrics import rate
from srdef.reporting import (
    adaptive_plots,
    adaptive_tables,
    detection_tables,
    gray_box_files,
    page,
    transfer_files,
)


def write(folder, files, config):
    files = {
        **files,
        "config.json": json.dumps(config),
        "environment.json": json.dumps(gray_box_files.environment()),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def adaptive_run(tmp_path):
    shares = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    every = {("<WD> & SR", CLEAN): np.ones((3, 2), np.float32), ("<WD> & SR", "BPDA"): shares}
    outcome = Outcome(3, (1 / 255, 4 / 255), ("<WD> & SR",), ("BPDA",), every, every)
    adaptive_plots.save_curves(tmp_path / "curves.png", outcome)
    checks = [Check("ε = 1 reaches 0 %", False, "accuracy <50 %", "the loss is flat")]
    files = {
        "adaptive.md": adaptive_tables.to_markdown(outcome),
        "adaptive.json": adaptive_tables.to_json(outcome),
        "checks.md": "### <WD> & SR: exact\n\n"
        + adaptive_tables.checks_to_markdown(checks)
        + "\n![Loss landscape](landscape_WD_SR.png)\n",
    }
    adaptive_plots.save_landscape(tmp_path / "landscape_WD_SR.png", np.eye(5), epsilon=0.1)
    write(tmp_path, files, {"classifier": {"name": "net"}, "seed": 5, "threats": {"BPDA": {}}})
    return tmp_path


def parsed(page):
    """The text of each cell of each row, after a look at the page as a whole."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(address.startswith("data:image/png;base64,") for address in checker.addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "<WD>" not in page
    rows = [
        [unescape(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)
    ]
    return rows, [base64.b64decode(address.split(",")[1]) for address in checker.addresses]


def test_adaptive(adaptive_run):
    built = page.build(adaptive_run)
    rows, pictures = parsed(built)
    names = ("curves.png", "landscape_WD_SR.png")
    assert pictures == [(adaptive_run / name).read_bytes() for name in names]
    # Two of three images are left at the first ε, one at the second: with their intervals.
    assert [row for row in rows if row[0] == "<WD> & SR"] == [
        ["<WD> & SR", "100 [44–100]", "67 [21–94]", "67 [21–94]"],
        ["<WD> & SR", "100 [44–100]", "33 [6–79]", "33 [6–79]"],
    ]
    assert ["ε = 1 reaches 0 %", "failed", "accuracy <50 %", "the loss is flat"] in rows
    assert "<h1>net: attackers who know the defense</h1>" in built
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert facts["images"] == "3"
    assert facts["seed"] == "5"
    assert {"jax", "flax", "optax", "jaxwt", "numpy", "devices"} <= facts.keys()
    assert "&quot;threats&quot;" in built
    (adaptive_run / "checks.md").unlink()
    assert "They were not run." in page.build(adaptive_run)


def test_manifold(tmp_path):
    some = rate(np.array([True, True, True, False]))
    result = experiment.Result(
        {"train": 9, "test": 4}, {"train": 8, "test": 4}, 0.75, 0.8, some,
        {"FGSM": (some, 0.8)}, {"as they are": {CLEAN: some, "FGSM": some}},
    )  # fmt: skip
    files = {
        "manifold.md": detection_tables.to_markdown(result),
        "manifold.json": detection_tables.to_json(result),
    }
    write(tmp_path, files, {"classifier": {"name": "net"}, "seed": 5, "manifold": {}})
    rows, pictures = parsed(page.build(tmp_path))
    assert pictures == []
    assert ["called adversarial (%)", "75.0 [30–95]"] in rows
    assert ["as they are", "75.0 [30–95]", "75.0", "75.0 [30–95]"] in rows
    assert ["images", "9 trained on, 4 tested with"] in rows


def test_transfer(tmp_path):
    some, none = rate(np.array([True, True, True, False])), rate(np.zeros(4, bool))
    names = ("A", "<B>")
    cells = {("", CLEAN, target, "<WD> & SR"): none for target in names}
    cells |= {(source, "FGSM", target, "<WD> & SR"): some for source in names for target in names}
    transfer_files.write(tmp_path, Matrix(4, names, ("FGSM",), ("<WD> & SR",), cells))
    classifiers = {"A": {"name": "net"}, "<B>": {"name": "other"}}
    write(tmp_path, {}, {"classifiers": classifiers, "seed": 5, "attacks": {}})
    rows, pictures = parsed(page.build(tmp_path))
    assert pictures == [(tmp_path / "transfer.png").read_bytes()]
    assert ["FGSM", "75.0", "75.0"] in rows
    assert ["FGSM", "A", "75 [30–95]", "75 [30–95]"] in rows
    assert ["classifiers", "A (net), <B> (other)"] in rows
    assert ["images", "4"] in rows


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adaptive.md", b"\xff\xfe"),  # any other text is Markdown
        ("checks.md", b"\xff\xfe"),
        *(
            (name, damage)
            for name in ("config.json", "adaptive.json", "environment.json")
            for damage in (b'{"classifier": ', b"\xff\xfe", b"null", b"[]", b'"x"', b"3")
        ),
    ],
)
def test_damaged_files_are_named(adaptive_run, name, damage):
    (adaptive_run / name).write_bytes(damage)
    script = "evaluate" if name == "config.json" else "adaptive"  # before that file is read nobody knows
    with pytest.raises(InputError, match=rf"{name} is damaged \(.*\): run srdef {script} again"):
        page.build(adaptive_run)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("config.json", {"threats": {}, "classifier": None, "seed": 5}, "classifier is None"),
        ("config.json", {"threats": {}, "classifier": {"name": 3}, "seed": 5}, "name is 3"),
        ("config.json", {"threats": {}, "classifier": {"name": "net"}}, "seed is missing"),
        ("config.json", {"classifiers": {"A": {}}, "seed": 5}, "name is missing"),
        ("config.json", {"classifiers": ["A"], "seed": 5}, r"classifiers is \['A'\]"),
        ("adaptive.json", {}, "images is missing"),
        ("adaptive.json", {"images": True}, "images is True"),
        ("manifold.json", {"images": 3}, "images is 3"),
        ("transfer.json", {"images": "3"}, "images is '3'"),
    ],
)
def test_json_of_another_kind_is_damaged(adaptive_run, name, damage, message):
    script = name.removesuffix(".json")
    if name == "config.json":
        script = "adaptive" if "threats" in damage else "transfer"
    else:
        field = {"adaptive": "threats", "manifold": "manifold", "transfer": "classifiers"}[script]
        config = {field: {}, "classifier": {"name": "net"}, "seed": 5}
        (adaptive_run / "config.json").write_text(json.dumps(config))
    (adaptive_run / name).write_text(json.dumps(damage))
    with pytest.raises(InputError, match=rf"{name} is damaged \({message}\): run srdef {script} again"):
        page.build(adaptive_run)


@pytest.mark.parametrize(
    ("damages", "message"),
    [
        ({"config.json": {"attacks": 3, "defenses": {}}}, "config.json is damaged .attacks is 3"),
        ({"config.json": {}}, "config.json is damaged .attacks is missing"),
        ({"config.json": {"attacks": {"A": 3}, "defenses": {}}}, "config.json is damaged .A is 3"),
        *(({"table.json": damage}, "table.json is damaged") for damage in (None, [], "x", 3, {})),
        ({"table.json": {"cells": 3}}, "table.json is damaged"),
        *(({"attacks.json": damage}, "attacks.json is damaged") for damage in (None, {}, "x", 3, [3], [{}])),
        *(({"environment.json": damage}, "environment.json is damaged") for damage in (None, [], "x", 3)),
        ({}, r"records.parquet is missing"),
    ],
)
def test_json_of_another_kind_in_an_evaluation(tmp_path, damages, message):
    share = {"value": None, "low": 0.0, "high": 1.0, "successes": 0, "total": 0}
    table = {
        **{"classifier": "net", "clean_accuracy": share, "metric": "m", "interval": "i", "seed": 0},
        **{"notes": [], "attacks": ["A"], "defenses": ["d"]},
        "cells": [{"defense": "d", "attack": "A", **share}],
    }
    strength = {"attack": "A", "storage": "float32", "median_linf": None, "median_l2": 0.5, "fooled": share}
    files = {
        "config.json": {"attacks": {"A": {"name": "fgsm"}}, "defenses": {"d": {"name": "identity"}}},
        "table.json": table,
        "attacks.json": [strength],
        "environment.json": {"jax": "0"},
    }
    for name, content in {**files, **damages}.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        page.build(tmp_path, count=0)
    # An attack that the run has not is refused, whether or not its images would be shown.
    if not damages:
        for arguments in ({"attacks": ["B"]}, {"traced": ["B"]}):
            with pytest.raises(InputError, match="unknown attack 'B'; the run has: A"):
                page.build(tmp_path, count=0, **arguments)


SHARE = {"value": 0.5, "low": 0.1, "high": 0.9, "successes": 1, "total": 2}


@pytest.fixture
def evaluation(tmp_path):
    """What a run of `evaluate` leaves, but for the images."""
    files = {
        "config.json": {"attacks": {"A": {"name": "fgsm"}}, "defenses": {"d": {"name": "identity"}}},
        "table.json": {
            **{"classifier": "net", "clean_accuracy": SHARE, "metric": "m", "interval": "i", "seed": 0},
            **{"notes": [], "attacks": ["clean", "A"], "defenses": ["d"]},
            "cells": [{"defense": "d", "attack": "A", **SHARE, "paper_percent": 60.5}],
            "paper": {"table": 1, "classifier": "inception_v3"},
        },
        "attacks.json": [
            {
                **{"attack": "A", "storage": "float32", "median_linf": None, "median_l2": 0.5},
                **{"fooled": SHARE, "zero_gradient": 1, "store": "A-1", "norm": "l2"},
            }
        ],
        "environment.json": {"jax": "0"},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    columns = {
        **{"image": ["x", "y"], "attack": ["clean", "A"], "defense": ["d", "d"]},
        **{"image_id": [0, 1], "label": [3, 4], "prediction": [3, 5], "linf": [0.0, 0.1]},
    }
    kinds = pa.schema([(name, pa.type_for_alias(RECORDS[name])) for name in columns])
    pq.write_table(pa.table(columns, kinds), tmp_path / "records.parquet")
    assert "paper 60.5" in page.build(tmp_path, count=0)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("config.json", ["attacks", "A", "paper"], 3, "paper is 3"),
        ("config.json", ["gallery"], {}, "attack is missing"),
        ("config.json", ["gallery"], [], r"gallery is \[\]"),
        ("table.json", ["paper"], 3, "paper is 3"),
        ("table.json", ["paper"], {"table": 1}, "classifier is missing"),
        ("table.json", ["cells", 0, "paper_percent"], "60", "paper_percent is '60'"),
        ("table.json", ["cells", 0, "value"], None, "value is None where total is 2"),
        ("table.json", ["cells", 0, "value"], float("nan"), "NaN is no number of JSON"),
        ("table.json", ["clean_accuracy", "total"], 0, "value is 0.5 where total is 0"),
        ("table.json", ["defenses", 0], "e", "defenses: config.json has no 'e'"),
        ("table.json", ["attacks", 1], "B", "attacks: config.json has no 'B'"),
        ("attacks.json", [0, "fooled", "value"], None, "value is None where total is 2"),
        ("attacks.json", [0, "zero_gradient"], "many", "zero_gradient is 'many'"),
        ("attacks.json", [0, "store"], 7, "store is 7"),
        ("attacks.json", [0, "norm"], {}, "norm is {}"),
        ("attacks.json", [0, "attack"], "B", "attack: config.json has no 'B'"),
    ],
)
def test_fields_of_another_kind_in_an_evaluation_are_named(evaluation, name, path, value, message):
    content = json.loads((evaluation / name).read_text())
    *parents, last = path
    place = content
    for part in parents:
        place = place[part]
    place[last] = value
    (evaluation / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"{name} is damaged \({message}\): run srdef evaluate again"):
        page.build(evaluation, count=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("linf"), "column linf is missing"),
        (lambda table: table.rename_columns({"label": "labels"}), "column label is missing"),
        (lambda table: table.append_column("label", table["label"]), "Multiple matches .*"),
        (lambda table: changed(table, "label", ["3", "4"]), "column label is of type string, not int32"),
        (
            lambda table: changed(table, "linf", pa.array([0, None], pa.float32())),
            "linf is empty in 1 rows",
        ),
        (lambda table: changed(table, "defense", ["d", "e"]), "column defense: config.json has no 'e'"),
        (lambda table: changed(table, "attack", ["clean", "B"]), "column attack: config.json has no 'B'"),
    ],
)
def test_records_of_other_columns_are_named(evaluation, change, message):
    file = evaluation / "records.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    with pytest.raises(InputError, match=rf"records.parquet is damaged \(.*{message}\): run srdef eval"):
        page.build(evaluation, count=0)


def changed(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_what_is_missing_is_said(adaptive_run):
    with pytest.raises(InputError, match="its page has no gallery"):
        page.build(adaptive_run, ["BPDA"])
    (adaptive_run / "adaptive.json").unlink()
    with pytest.raises(InputError, match=r"adaptive.json is missing\): run srdef adaptive"):
        page.build(adaptive_run)
