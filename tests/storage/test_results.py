"""Results belong to the configuration beside them: another one's are deleted before it is written."""

import json

import pytest

from srdef.errors import InputError
from srdef.storage import results

KEPT = ("batch_size.json", "images.json", "metrics.jsonl", "notes.txt", "table.csv")


def fill(folder):
    for name in (*results.NAMES, *KEPT):
        (folder / name.replace("*", "1_WD")).write_text("old")
    (folder / "store").mkdir()
    (folder / "store" / "table.md").write_text("a user's own, or a store's")


def test_the_results_of_another_configuration_go_before_it_comes(tmp_path):
    results.begin(tmp_path, {"seed": 0})
    fill(tmp_path)
    results.begin(tmp_path, {"seed": 0})
    assert len(list(tmp_path.iterdir())) == len(results.NAMES) + len(KEPT) + 2
    results.begin(tmp_path, {"seed": 1})
    assert {path.name for path in tmp_path.iterdir()} == {*KEPT, "config.json", "store"}
    assert (tmp_path / "store" / "table.md").exists()
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


@pytest.mark.parametrize("damage", [b"", b"\xff", b'{"seed": 0}'])
def test_a_damaged_configuration_is_another(tmp_path, damage):
    (tmp_path / "config.json").write_bytes(damage)
    assert not results.is_of(tmp_path, {"seed": 0})


def test_what_cannot_be_deleted_is_named(tmp_path):
    (tmp_path / "table.md").mkdir()
    with pytest.raises(InputError, match=r"cannot delete .*/table\.md \("):
        results.begin(tmp_path, {"seed": 0})
    assert not (tmp_path / "config.json").exists()
