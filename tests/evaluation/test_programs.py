"""Threads that compile what a run will need."""

import shutil
import subprocess
import sys
import threading
import time

import pytest
from toys import make_experiment

from srdef.evaluation import gray_box, progress
from srdef.evaluation import programs as programs_module
from srdef.evaluation.programs import Programs


def test_begins_with_the_first_stage_and_goes_on_in_order():
    begun, done = [], threading.Event()

    def job(name):
        begun.append(name)
        if name == "d":
            done.set()

    with Programs({(name,): lambda name=name: job(name) for name in "abcd"}, workers=1) as programs:
        assert begun == []
        programs.ahead_of(("b",))
        assert done.wait(60)
    # The first stage is compiled in this thread, beside the other.
    assert sorted(begun) == ["b", "c", "d"]
    assert begun.index("c") < begun.index("d")


def test_a_stage_waits_for_the_thread_that_compiles_for_it():
    began, go_on, finished = threading.Event(), threading.Event(), []

    def slow():
        began.set()
        go_on.wait(60)
        finished.append("b")

    with Programs({("a",): lambda: None, ("b",): slow}, workers=1) as programs:
        programs.ahead_of(("a",))
        assert began.wait(60)
        threading.Timer(0.5, go_on.set).start()
        programs.ahead_of(("b",))
        assert finished == ["b"]


def test_a_stage_does_not_wait_for_what_no_thread_has_begun():
    go_on, begun = threading.Event(), []
    jobs = {
        ("a",): lambda: None,
        ("b",): lambda: go_on.wait(60),
        ("c",): lambda: begun.append("c"),
    }
    with Programs(jobs, workers=1) as programs:
        programs.ahead_of(("a",))
        programs.ahead_of(("c",))
        assert begun == ["c"]  # in this thread
        programs.ahead_of(("c",))
        go_on.set()
    assert begun == ["c"]


def test_a_failed_compilation_is_left_to_the_stage():
    tried = []

    def fails():
        tried.append(1)
        raise RuntimeError("no memory")

    with Programs({("a",): fails, ("b",): fails}, workers=1) as programs:
        for _ in range(2):  # as for every batch of a stage
            programs.ahead_of(("a",))
            programs.ahead_of(("b",))
    assert len(tried) == 2


def test_a_gpu_compiles_each_stage_when_it_begins_and_nothing_beside(monkeypatch):
    """Its compiler times kernels on the device: what runs meanwhile spoils the choice."""
    monkeypatch.setattr(programs_module, "may_overlap", lambda: False)
    compiled, told = [], []

    class Report:
        def add(self, name, needed):
            told.append((name, needed))

        def tell(self, left):
            told.append(left)

    def job(name):
        compiled.append((name, threading.current_thread() is threading.main_thread()))
        return 7

    jobs = {(name,): lambda name=name: job(name) for name in "abcd"}
    with Programs(jobs, workers=4, report=Report()) as programs:
        for name in ("b", "b", "d", "unknown", "c"):
            programs.ahead_of((name,))
    assert compiled == [("b", True), ("d", True), ("c", True)]
    # Of "a", which the run has passed, nobody waits.
    assert told[:2] == [(("b",), 7), 2]
    assert told[-1] == 0


def test_a_gpu_compiles_one_program_after_the_other(monkeypatch):
    monkeypatch.setattr(programs_module, "may_overlap", lambda: False)
    monkeypatch.setattr(programs_module, "compiler_count", lambda: 4)  # two cores have one in any case
    at_work, most = [], []

    def job():
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.pop()
        return 1

    assert programs_module.of_all([job] * 4) == [1] * 4
    assert max(most) == 1


def test_a_complete_run_compiles_nothing(tmp_path, monkeypatch):
    experiment = make_experiment()
    first = gray_box.run(experiment, tmp_path, progress.Reporter())
    monkeypatch.setattr(Programs, "ahead_of", lambda *_: pytest.fail("nothing is left to compute"))
    again = gray_box.run(experiment, tmp_path, progress.Reporter())
    assert again.records.equals(first.records)


def test_a_run_that_is_nearly_complete_compiles_what_it_lacks(tmp_path, monkeypatch):
    compiled = []
    original = gray_box.of_evaluation
    monkeypatch.setattr(
        gray_box,
        "of_evaluation",
        lambda *given: {stage: lambda stage=stage: compiled.append(stage) for stage in original(*given)},
    )
    gray_box.run(make_experiment(), tmp_path, progress.Reporter())
    assert compiled
    compiled.clear()
    for folder in (tmp_path / "adversarial").glob("I-FGSM-*"):
        shutil.rmtree(folder)
    gray_box.run(make_experiment(), tmp_path, progress.Reporter())
    assert set(compiled) <= {("adversarial", "I-FGSM")}


def test_what_is_still_compiled_is_not_waited_for_at_the_end():
    script = """
import threading, time
from srdef import command
from srdef.evaluation.programs import Programs

def main(words):
    with Programs({("a",): lambda: None, ("b",): lambda: time.sleep(600)}, workers=1) as programs:
        programs.ahead_of(("a",))
        time.sleep(0.5)
    print("done")
    return 5

command.main = main
command.entry("evaluate")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (found.stdout, found.returncode) == ("done\n", 5)
