"""What the benchmark of an accelerator compiles before it times anything."""

import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdef.commands.benchmarks import accelerator
from srdef.commands.benchmarks.ahead import compile_ahead, program
from srdef.commands.benchmarks.ledger import Ledger, Row
from srdef.commands.benchmarks.workbench import FLOAT32, TF32, TINY, Workbench, in_arithmetic
from srdef.errors import InputError

NETWORKS = {"value_and_gradient", "forward"}
ATTACKS = {"init", "steps", "result", "judged"}
PROGRAMS = NETWORKS | ATTACKS | {"_defend_batch"}


@pytest.fixture
def compiled(caplog):
    """The names of programs that were compiled, one for each time; clear it to begin anew."""
    jax.config.update("jax_log_compiles", True)
    caplog.set_level(logging.WARNING, logger="jax")
    words = "Finished XLA compilation of jit("
    yield lambda: [
        message.removeprefix(words).split(")")[0]
        for message in (record.getMessage() for record in caplog.records)
        if message.startswith(words)
    ]
    jax.config.update("jax_log_compiles", False)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (["floor", "attacks", "networks"], PROGRAMS),
        pytest.param(
            ["floor", "nearest", "bf16", "defenses", "rest", "float32", "classifiers"],
            PROGRAMS,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_call_compiles_what_was_compiled_ahead(compiled, caplog, parts, names):
    jax.clear_caches()
    bench = Workbench(TINY)
    rows = {part: [row for row in accelerator.PARTS[part](bench) if row.library == "srdef"] for part in parts}
    everything = [row for members in rows.values() for row in members]
    found = compile_ahead(everything, 1000.0, workers=4)
    assert set(found.seconds) == set(everything)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert (found.left, found.workers) == (0, 4)
    assert set(compiled()) >= names
    # Threads that need the same program wait for the first of them: all attacks have one judge.
    assert compiled().count("judged") == 1
    caplog.clear()
    ledger = Ledger("title", None, limit=1000.0, total=None, repeats=1, shortest=0.0)
    for part, members in rows.items():
        ledger.part(part, members)
    assert all("seconds" in record and "note" not in record for record in ledger.records)
    assert set(compiled()) & PROGRAMS == set()


def test_autoattacks_members_are_compiled_ahead(compiled, caplog):
    bench = Workbench(TINY)
    row = next(row for row in accelerator.PARTS["autoattack"](bench) if row.library == "srdef")
    assert len(row.ahead()) == 4
    found = compile_ahead([row], 1000.0)
    assert set(found.seconds) == {row}
    assert set(compiled()) >= {"init", "steps"}


def test_programs_have_the_arithmetic_of_their_thread(compiled, caplog):
    @jax.jit
    def squared(x):
        return x @ x

    matrix = jnp.ones((3, 3))
    program(TF32, squared, jax.ShapeDtypeStruct((3, 3), np.float32))()
    assert "squared" in compiled()
    caplog.clear()
    in_arithmetic(TF32, squared, matrix)()
    assert compiled() == []
    in_arithmetic(FLOAT32, squared, matrix)()
    assert "squared" in compiled()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def row(what, *jobs):
    return Row(what, "srdef", "TF32", lambda: None, 1, ahead=lambda: jobs)


def test_nothing_is_begun_once_time_is_over(capsys):
    clock, begun = Clock(), []

    def taking(name, seconds):
        def job():
            begun.append(name)
            clock.now += seconds

        return job

    rows = [
        row("first", taking("first", 2.0), taking("first again", 3.0)),
        row("half", taking("half", 5.0), taking("too late", 1.0)),
        row("last", taking("last", 1.0)),
        Row("PyTorch's", "PyTorch", "TF32", lambda: None, 1),
    ]
    found = compile_ahead(rows, 10.0, workers=1, clock=clock)
    assert begun == ["first", "first again", "half"]
    assert found.seconds == {rows[0]: 5.0}
    assert (found.left, found.elapsed) == (2, 10.0)
    assert "of 1 rows" in str(found)
    assert "2 rows were not begun in time" in str(found)
    assert "compiled 1 of 3: first TF32, 5.0 s" in capsys.readouterr().out
    nothing = compile_ahead(rows, 0.0, clock=clock)
    assert (nothing.seconds, str(nothing), len(begun)) == ({}, "", 3)


def test_what_cannot_be_compiled_is_left_to_its_row(capsys):
    def failing():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    def unknown():
        raise InputError("no weights")

    rows = [row("large", failing), row("good", lambda: None)]
    rows += [Row("missing", "srdef", "TF32", lambda: None, 1, ahead=unknown)]
    found = compile_ahead(rows, 10.0)
    assert set(found.seconds) == {rows[1]}
    assert found.left == 0
    said = capsys.readouterr().out
    assert "not compiled ahead: large TF32: JaxRuntimeError: RESOURCE_EXHAUSTED" in said
    assert "not compiled ahead: missing TF32: InputError: no weights" in said


def test_programs_are_compiled_side_by_side():
    together = threading.Barrier(3, timeout=60)
    rows = [row(str(number), together.wait) for number in range(3)]
    found = compile_ahead(rows, 100.0, workers=3)
    assert set(found.seconds) == set(rows)
