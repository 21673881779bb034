"""Threads that compile what a run will need."""

import threading

import pytest
from toys import make_experiment

from srdef.evaluation import gray_box, progress
from srdef.evaluation.programs import Programs


def test_begins_after_the_first_stage_and_goes_on_in_order():
    begun, done = [], threading.Event()

    def job(name):
        begun.append(name)
        if name == "d":
            done.set()

    with Programs({(name,): lambda name=name: job(name) for name in "abcd"}, workers=1) as programs:
        assert begun == []
        programs.ahead_of(("b",))
        assert done.wait(60)
    assert begun == ["c", "d"]


def test_a_stage_waits_for_the_thread_that_compiles_for_it():
    began, go_on, finished = threading.Event(), threading.Event(), []

    def slow():
        began.set()
        go_on.wait(60)
        finished.append("b")

    with Programs({("a",): slow, ("b",): slow}, workers=1) as programs:
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
        go_on.set()
    assert begun == []


def test_a_failed_compilation_is_left_to_the_stage():
    def fails():
        raise RuntimeError("no memory")

    with Programs({("a",): fails, ("b",): fails}, workers=1) as programs:
        programs.ahead_of(("a",))
        programs.ahead_of(("b",))


def test_a_complete_run_compiles_nothing(tmp_path, monkeypatch):
    experiment = make_experiment()
    first = gray_box.run(experiment, tmp_path, progress.Reporter())
    monkeypatch.setattr(Programs, "ahead_of", lambda *_: pytest.fail("nothing is left to compute"))
    again = gray_box.run(experiment, tmp_path, progress.Reporter())
    assert again.records.equals(first.records)
