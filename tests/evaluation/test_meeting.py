"""Processes that meet without a run: who belongs together, who takes what, and what an end looks like."""

import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from srdef.errors import InputError
from srdef.evaluation import links, meeting
from srdef.evaluation.processes import Processes
from srdef.evaluation.progress import Reporter
from srdef.storage.store import BatchStore

# Joins and says so; takes as many batches as there are, slowly; says which.
MEMBER = """
import sys, time
from pathlib import Path
from srdef.errors import InputError
from srdef.evaluation.links import Place
from srdef.evaluation.meeting import meet

coordinator, count, index, run, patience = sys.argv[1:]
try:
    with meet(Place(coordinator, int(count), int(index)), run, float(patience)) as processes:
        print("met", processes.index, processes.count, flush=True)
        for line in sys.stdin:
            stage, name, batches = line.split()
            batch = processes.take(int(stage), name, list(range(int(batches))))
            print("batch", batch, flush=True)
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


def free_address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def member(address, count, index, run="run", patience=60):
    return subprocess.Popen(
        [sys.executable, "-c", MEMBER, address, str(count), str(index), run, str(patience)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(process, stage, name, batches):
    process.stdin.write(f"{stage} {name} {batches}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def end(process):
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def met(address, count):
    """All of them, after they have met."""
    processes = [member(address, count, index) for index in range(count)]
    for index, process in enumerate(processes):
        assert process.stdout.readline() == f"met {index} {count}\n"
    return processes


def test_every_batch_is_taken_once():
    first, second = met(free_address(), 2)
    assert ask(second, 1, "store-a", 3) == "batch 0"
    assert ask(first, 1, "store-a", 3) == "batch 1"
    assert ask(second, 1, "store-a", 3) == "batch 2"
    assert ask(second, 1, "store-a", 3) == "batch None"
    # One is ahead of the other.
    assert ask(second, 2, "store-b", 2) == "batch 0"
    assert ask(first, 1, "store-a", 3) == "batch None"
    assert ask(first, 2, "store-b", 2) == "batch 1"
    assert end(second) == (0, "", "")
    assert end(first) == (0, "", "")


def test_other_results_on_another_machine_are_an_error():
    first, second = met(free_address(), 2)
    assert ask(first, 1, "store-a", 3) == "batch 0"
    ask(second, 1, "store-b", 3)
    for process in (first, second):
        code, _, errors = end(process)
        assert code == 1
        assert "processes compute different things, store-a and store-b" in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_others_at_once(victim):
    processes = met(free_address(), 3)
    processes[victim].send_signal(signal.SIGKILL)
    for index, process in enumerate(processes):
        if index != victim:
            process.wait(timeout=links.SILENCE / 2)  # far from the time after which silence counts as an end
    for index, process in enumerate(processes):
        code, _, errors = end(process)
        if index != victim:
            assert code == 1
            assert errors.startswith(f"error: process {victim} ")
            assert errors.endswith("has ended (its connection broke); the same command continues from here\n")
            assert errors.count("\n") == 1


def test_who_does_not_belong_to_the_run_is_named_on_both_sides():
    for count, index, run in ((2, 1, "another"), (3, 2, "run")):
        address = free_address()
        other, first = member(address, count, index, run), member(address, 2, 0)
        for process in (first, other):
            code, output, errors = end(process)
            assert code in (1, 2)
            assert output == ""
            assert errors.startswith("error: process ")
            assert "is of another run: command, configuration, version and number of processes" in errors
            assert errors.count("\n") == 1


def test_a_second_process_of_the_same_number_is_refused_and_the_run_goes_on():
    address = free_address()
    processes = met(address, 2)
    code, _, errors = end(member(address, 2, 1))
    assert code == 1
    assert errors == "error: there is a process 1 of 2 already\n"
    assert ask(processes[1], 1, "store", 1) == "batch 0"
    for process in reversed(processes):
        assert end(process)[0] == 0


def test_strangers_are_ignored():
    address = free_address()
    first = member(address, 2, 0)
    place = links.Place(address, 2, 1)
    strangers = []
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"index": "1"}\n', b'{"index": 0}\n'):
        while True:
            try:
                strangers.append(socket.create_connection(place.address))
                break
            except OSError:
                assert first.poll() is None
                time.sleep(0.05)
        strangers[-1].sendall(greeting)
    second = member(address, 2, 1)
    assert first.stdout.readline() == "met 0 2\n"
    assert second.stdout.readline() == "met 1 2\n"
    assert end(second)[0] == 0
    assert end(first)[0] == 0
    for stranger in strangers:
        stranger.close()


def test_nobody_waits_for_ever():
    address = free_address()
    with (
        pytest.raises(InputError, match=rf"process 1, 2 of 3 did not come to {address}"),
        meeting.meet(links.Place(address, 3, 0), "run", patience=0.2),
    ):
        pass
    with (
        pytest.raises(InputError, match=rf"no process 0 at {address} \(Connection refused\)"),
        meeting.meet(links.Place(address, 3, 1), "run", patience=0.2),
    ):
        pass


def test_an_address_that_cannot_be_used():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(InputError, match=rf"cannot listen at {address} \(Address already in use\)"),
            meeting.meet(links.Place(address, 2, 0), "run"),
        ):
            pass
    with (
        pytest.raises(InputError, match=r"cannot listen at no\.such\.host\.invalid:80 \("),
        meeting.meet(links.Place("no.such.host.invalid:80", 2, 0), "run"),
    ):
        pass


def test_the_reporter_waits_for_what_others_compute(tmp_path):
    """One process takes the first batch only; the second one is written while it waits."""

    class First(Processes):
        count = 2

        def share(self, store, missing):
            yield missing[0]

    def open_store():
        return BatchStore(tmp_path, "store", {}, {"numbers": ((), np.int32)}, 5, 3)

    def compute(rows):
        return {"numbers": list(range(rows.start, rows.stop))}

    def other():
        time.sleep(0.3)
        store = open_store()
        store.write(slice(3, 5), **compute(slice(3, 5)))

    thread = threading.Thread(target=other)
    thread.start()
    store = open_store()
    Reporter(processes=First()).complete("numbers", store, compute)
    thread.join()
    assert store.missing() == []
    assert store.read("numbers").tolist() == [0, 1, 2, 3, 4]
