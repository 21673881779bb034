"""Threads that compile what a run will need."""

import shutil
import subprocess
import sys
import threading

import pytest
from toys import make_experiment

from srdef.evaluation import gray_box, progress
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
