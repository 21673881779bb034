"""The benchmark of an accelerator: its limits of time on a clock of its own, every part at tiny sizes."""

import json
import subprocess
import sys

import jax
import pytest
import torch

from srdef.commands import benchmark, cli
from srdef.commands.benchmarks import accelerator, accelerator_torch, ledger
from srdef.commands.benchmarks.ledger import Ledger, Row
from srdef.errors import InputError, OutOfMemoryError


class Clock:
    """Stands still but for what calls take."""

    now = 100.0

    def __call__(self):
        return self.now

    def row(self, what, *seconds, library="srdef", work=None):
        """A row whose calls take these seconds, the last ones again and again."""
        left = list(seconds)

        def call():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return what

        return Row(what, library, "TF32", lambda: call, 4, work)


def make_ledger(clock, file=None, limit=60.0, total=None, repeats=3, shortest=0.0, rows=1):
    options = {"limit": limit, "total": total, "repeats": repeats, "shortest": shortest, "rows": rows}
    return Ledger("title", file, **options, clock=clock)


def figures(file):
    """The last line of each row, by part, row and library."""
    lines = map(json.loads, file.with_suffix(".jsonl").read_text().splitlines())
    return {(line["part"], line["row"], line["library"]): line for line in lines if "part" in line}


def raising(error):
    def make():
        raise error

    return make


def test_a_row_has_a_first_call_a_median_and_its_floor(tmp_path):
    clock, file = Clock(), tmp_path / "results.md"
    found = make_ledger(clock, file)
    gradient = clock.row("gradient", 20.0, 0.5, 0.25, 0.125)
    attack = clock.row("MI-FGSM", 10.0, 5.0, work=lambda result: {"gradient": 10})
    other = clock.row("MI-FGSM", 1.0, 10.0, library="torchattacks")
    found.part("floor", [gradient])
    found.part("attacks", [attack, other])
    assert figures(file)["floor", "gradient", "srdef"] == {
        **{"part": "floor", "row": "gradient", "library": "srdef", "arithmetic": "TF32", "images": 4},
        **{"first_call": 20.0, "seconds": 0.25, "all_seconds": [0.5, 0.25, 0.125]},
    }
    record = figures(file)["attacks", "MI-FGSM", "srdef"]
    assert (record["floor"], record["work"]) == (2.5, {"gradient": 10})
    # One call takes longer than all repeats may together.
    assert record["all_seconds"] == [5.0]
    assert (
        "| attacks | MI-FGSM | srdef | TF32 | 4 | 10.00 | 5000.00 | 1250.000 |  | 0.50 |  |"
        in file.read_text()
    )
    assert "| torchattacks | TF32 | 4 | 1.00 | 10000.00 | 2500.000 | 2.00 |  |  |" in file.read_text()


def test_short_rows_are_repeated_for_a_while():
    clock = Clock()
    found = make_ledger(clock, repeats=2, shortest=1.0)
    found.part("floor", [clock.row("short", 9.0, 0.125), clock.row("long", 9.0, 2.0)])
    assert [len(record["all_seconds"]) for record in found.records] == [8, 2]


def test_the_limit_of_a_part_skips_its_other_rows_and_no_other_part(tmp_path, capsys):
    clock, file = Clock(), tmp_path / "results.md"
    found = make_ledger(clock, file, limit=60)
    # First calls do not count: they may compile.
    rows = [clock.row("slow", 100.0, 59.0), clock.row("long", 1.0, 1.0, 1.0)]
    found.part("floor", [*rows, clock.row("second", 1.0), clock.row("third", 1.0)])
    found.part("attacks", [clock.row("fourth", 1.0)])
    notes = {row: record.get("note") for (_, row, _), record in figures(file).items()}
    over = "the 60 s of the part are over"
    assert notes == {
        "slow": None,
        "long": f"ended late: {over}",
        "second": f"skipped: {over}",
        "third": f"skipped: {over}",
        "fourth": None,
    }
    slow, long = (figures(file)["floor", name, "srdef"] for name in ("slow", "long"))
    assert (slow["first_call"], slow["all_seconds"]) == (100.0, [59.0])
    assert long["all_seconds"] == [1.0]  # there was no time for a third call
    assert f"floor: {over}, 2 rows skipped: second, third" in capsys.readouterr().out
    assert file.read_text().count(over) == 3


def test_what_is_left_of_the_total_is_shared():
    """Of 12 s the first of four rows has 3 s, with its first call; the second a third of what that leaves."""
    clock = Clock()
    found = make_ledger(clock, total=12, repeats=9, rows=4)
    rows = [clock.row(name, seconds) for name, seconds in zip("abcd", (3.0, 1.0, 0.5, 0.5), strict=True)]
    found.part("floor", rows)
    # One call after the first is there always: 6, 4 and 2 s are left for three rows, two, and one.
    assert [record["all_seconds"] for record in found.records] == [[3.0], [1.0], [0.5] * 3, [0.5] * 3]
    alone = make_ledger(clock, repeats=9)
    alone.part("floor", [clock.row("b", 1.0)])
    assert alone.records[0]["all_seconds"] == [1.0] * 3


def test_the_limit_of_all_ends_it_in_order(tmp_path):
    clock, file = Clock(), tmp_path / "results.md"
    found = make_ledger(clock, file, limit=60, total=70)
    for part in ("floor", "attacks", "nearest"):
        found.part(part, [clock.row(part, 25.0)])
    notes = [record.get("note", "") for record in found.records]
    assert notes == ["", "ended late: the 70 s of --total are over", "skipped: the 70 s of --total are over"]
    assert file.read_text().count("\n| ") == 3 + 1


def test_what_a_killed_process_has_found_is_in_the_file(tmp_path):
    clock, file = Clock(), tmp_path / "results.md"

    def killed():
        assert figures(file)["floor", "gradient", "srdef"]["seconds"] == 1.0
        assert "1000.00" in file.read_text()
        raise KeyboardInterrupt

    found = make_ledger(clock, file)
    rows = [clock.row("gradient", 2.0, 1.0), Row("killed", "srdef", "TF32", lambda: killed, 1)]
    with pytest.raises(KeyboardInterrupt):
        found.part("floor", rows)
    assert figures(file)["floor", "gradient", "srdef"]["first_call"] == 2.0


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (OutOfMemoryError("not enough memory for batches of 2 images"), "out of memory"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "not installed: timm"),
        (InputError("give other images"), "skipped: give other images"),
        (ValueError("two\nlines | of words"), "failed: ValueError: two lines | of words"),
    ],
)
def test_a_row_that_cannot_run_is_a_note_and_the_next_one_runs(tmp_path, capsys, error, note):
    clock, file = Clock(), tmp_path / "results.md"
    rows = [Row(name, "other", "TF32", raising(error), 1) for name in ("first", "second")]
    make_ledger(clock, file).part("floor", [*rows, clock.row("third", 1.0)])
    found = figures(file)
    assert [found["floor", name, "other"]["note"] for name in ("first", "second")] == [note, note]
    assert found["floor", "third", "srdef"]["seconds"] == 1.0
    assert file.read_text().count(note.replace("|", "/")) == 2
    # One line for a library that is missing, and one for each row otherwise.
    assert capsys.readouterr().out.count(note) == (1 if note.startswith("not installed") else 2)


def test_the_memory_can_run_out_in_a_later_call():
    calls = []

    def call():
        calls.append(1)
        if len(calls) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    found = make_ledger(Clock())
    found.part("floor", [Row("gradient", "srdef", "TF32", lambda: call, 1)])
    (record,) = found.records
    assert (record["first_call"], record["note"]) == (0.0, "out of memory")
    assert ledger.HEADER[-1] == "note"
    assert found.table()[0][-1] == "out of memory"


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--only=flor", "unknown part 'flor'; choose from: floor, attacks"),
        ("--rows=gradient,PGD", "unknown row 'PGD'; choose from: gradient, forward"),
        ("--libraries=art", "unknown library 'art'; choose from: srdef, PyTorch"),
        ("--limit=0", "--limit must be above 0 seconds, not 0.0"),
        ("--total=nan", "--total must be above 0 seconds, not nan"),
        ("--batch=0", "--batch must be at least 1, not 0"),
        ("--size=64", "--tiny has its own --size; leave one of them out"),
        ("--write=/nowhere/results.md", "--write must be a file FILE.md in a folder that is there"),
        ("--write=/tmp", "--write must be a file FILE.md"),
        ("--write=", "--write must be a file FILE.md"),
        ("--write=results.jsonl", "--write must be a file FILE.md"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_runs(capsys, option, error):
    assert cli.run("benchmark", benchmark, ["accelerator", "--tiny", "--only=floor", option]) == 2
    assert error in capsys.readouterr().err


def test_the_command_chooses_how_jax_takes_memory():
    """Which it can only before JAX has asked for its devices: no import of the command may do so."""
    code = "import srdef.commands.benchmark, jax._src.xla_bridge as x; print(x.backends_are_initialized())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def run_tiny(file, *options):
    """Run the command at its smallest; returns the last record of each row, with its arithmetic."""
    arguments = ["accelerator", "--tiny", "--repeats=1", "--limit=1000", f"--write={file}", *options]
    # What torch.compile makes on a CPU takes a C++ compiler and a minute: here it makes nothing.
    with torch._dynamo.config.patch(disable=True):
        assert cli.run("benchmark", benchmark, arguments) == 0
    lines = list(map(json.loads, file.with_suffix(".jsonl").read_text().splitlines()))
    assert "tiny sizes" in lines[0]["title"]
    assert jax.__version__ in lines[0]["title"]
    names = ("part", "row", "library", "arithmetic")
    return {tuple(line[name] for name in names): line for line in lines if "part" in line}


ATTACKED = ("MI-FGSM 10", "MI-FGSM 10 on device")


def test_two_parts_on_the_smallest_network(tmp_path):
    file = tmp_path / "results.md"
    rows = "--rows=gradient,forward,MI-FGSM 10,MI-FGSM 10 on device"
    found = run_tiny(file, "--only=floor,attacks,bf16", rows, "--libraries=srdef,PyTorch")
    assert {key[1:] for key in found} == {
        *((what, "srdef", a) for what in ("gradient", "forward") for a in ("float32", "TF32", "bf16")),
        *(("gradient", "PyTorch", a) for a in ("float32", "TF32", "bf16")),
        *(("forward", "PyTorch", a) for a in ("float32", "TF32")),
        *((what, "srdef", a) for what in ATTACKED for a in ("float32", "TF32")),
    }
    assert all(record["seconds"] > 0 and "note" not in record for record in found.values())
    for arithmetic in ("float32", "TF32"):
        gradient = found["floor", "gradient", "srdef", arithmetic]
        for what in ATTACKED:
            attack = found["attacks", what, "srdef", arithmetic]
            assert attack["work"] == {"gradient": 1.0}  # a tenth of its steps
            assert attack["floor"] == gradient["seconds"]
    assert file.read_text().count("\n| ") == len(found) + 1


def test_a_library_that_is_missing_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # as if it were not installed
    file = tmp_path / "results.md"
    found = run_tiny(file, "--only=libraries", "--libraries=torchattacks")
    assert len(found) > 2
    assert {record["note"] for record in found.values()} == {"not installed: torchattacks"}
    assert capsys.readouterr().out.count("torchattacks is skipped") == 1
    monkeypatch.setitem(sys.modules, "torch", None)
    accelerator_torch.let_go()


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    file = tmp_path / "results.md"
    found = run_tiny(file)
    assert {key[0] for key in found} == set(accelerator.PARTS)
    assert {key[2] for key in found} == set(accelerator.LIBRARIES)
    wrong = {key: record["note"] for key, record in found.items() if "note" in record}
    assert wrong == {}
    for record in found.values():
        assert record["seconds"] > 0
        assert record["first_call"] > 0
        assert len(record["all_seconds"]) == 1
    # Of attacks that neither stop early nor let images go: the steps they are given, and what each takes.
    work = {key[1]: record["work"] for key, record in found.items() if "work" in record}
    assert work["PGD 40"] == {"gradient": 4}
    assert work["C&W 5x100"] == {"gradient": 50}
    assert work["FAB-T 9x20"] == {"gradient": 18, "forward": 18}
    assert work["DeepFool"]["gradient"] % 4.5 == 0  # two images, nine gradients a step
    assert file.read_text().count("\n| ") == len(found) + 1
