"""`config.batch_size = "auto"`, and what a run says of its memory."""

import io
import re
import warnings
from functools import partial

import jax
import pytest
from rich.console import Console
from test_meeting import free_address
from toys import make_experiment

from srdef import memory
from srdef.commands import configuration
from srdef.errors import InputError, SrdefWarning
from srdef.evaluation import batch_sizes, gray_box, memory_report, schema
from srdef.evaluation.fields import check_fields
from srdef.evaluation.links import Place
from srdef.evaluation.members import Follower, Leader
from srdef.evaluation.memory_report import MemoryReport
from srdef.evaluation.programs import of_all, of_evaluation
from srdef.evaluation.progress import Reporter

CONFIG = {"batch_size": "auto", "seed": 0}


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def reporter(said):
    return Reporter(Console(file=said, width=200))


def accelerator(monkeypatch, size):
    """As if the devices had so many bytes."""
    monkeypatch.setattr(memory, "limit", lambda devices: size)


def jobs(experiment=None):
    experiment = experiment or make_experiment()
    return partial(of_evaluation, experiment, shape=experiment.dataset.image_shape, everything=True)


def settle(tmp_path, reporter, config=CONFIG, count=10_000):
    return batch_sizes.settle(config, count, tmp_path, reporter, jobs())


def test_a_number_is_a_number(tmp_path, reporter, said):
    assert settle(tmp_path, reporter, {"batch_size": 7}) == 7
    assert settle(tmp_path, reporter, {"batch_size": 7}, count=5) == 5
    assert said.getvalue() == ""
    assert list(tmp_path.iterdir()) == []


def test_on_a_cpu_nothing_is_compiled(tmp_path, reporter, said, monkeypatch):
    accelerator(monkeypatch, None)
    decide = partial(batch_sizes.settle, CONFIG, jobs=lambda size: pytest.fail("compiles"))
    assert decide(10_000, tmp_path, reporter) == memory.CPU_BATCH
    assert decide(5, tmp_path, reporter) == 5
    assert f"batch_size={memory.CPU_BATCH}" in said.getvalue()


@pytest.mark.parametrize("images", [16, 64])
def test_on_an_accelerator_as_many_as_fit(tmp_path, reporter, said, monkeypatch, images):
    fits = max(of_all(jobs()(images).values()))
    devices = len(jax.local_devices())
    # A little above what so many images need, far below what twice as many do.
    accelerator(monkeypatch, int(1.15 * fits / memory.SHARE))
    assert settle(tmp_path, reporter) == images * devices
    assert f"batch_size={images * devices}" in said.getvalue()


def test_a_run_keeps_its_batches(tmp_path, reporter, monkeypatch):
    accelerator(monkeypatch, 1_000_000)
    first = settle(tmp_path, reporter)
    accelerator(monkeypatch, 4_000_000)
    assert settle(tmp_path, reporter) == first
    # Another configuration has another size.
    assert settle(tmp_path, reporter, {**CONFIG, "seed": 1}) > first
    assert settle(tmp_path, reporter) > first


@pytest.mark.parametrize("text", ["", "[]", '{"batch_size": 0}', '{"batch_size": "auto", "config": ""}'])
def test_a_damaged_file_is_written_again(tmp_path, reporter, monkeypatch, text):
    accelerator(monkeypatch, 1_000_000)
    first = settle(tmp_path, reporter)
    whole = (tmp_path / batch_sizes.FILE).read_text()
    (tmp_path / batch_sizes.FILE).write_text(text)
    assert settle(tmp_path, reporter) == first
    assert (tmp_path / batch_sizes.FILE).read_text() == whole


def test_process_0_decides_for_all(tmp_path, monkeypatch):
    address = free_address()
    leader, follower = Leader(Place(address, 2, 0), "run"), Follower(Place(address, 2, 1), "run")
    follower.join(float("inf"))
    leader.join(float("inf"))
    accelerator(monkeypatch, 1_000_000)
    try:
        with leader.hold(tmp_path), follower.hold(tmp_path):
            size = settle(tmp_path, Reporter(processes=leader))
            accelerator(monkeypatch, 4_000_000)  # it has more memory, and is not asked
            found = batch_sizes.settle(
                CONFIG, 10_000, tmp_path, Reporter(processes=follower), lambda size: pytest.fail("compiles")
            )
            assert found == size
            # The other waits for an answer until process 0 leaves.
            leader._finished.add(1)
    finally:
        follower.leave(None)
        leader.leave(None)


@pytest.mark.parametrize("kind", ["evaluation", "adaptive", "transfer"])
def test_the_schema_takes_a_number_or_the_word(kind):
    fields = {"batch_size": schema.SCHEMAS[kind]["batch_size"]}
    for value in (1, 20, "auto"):
        check_fields({"batch_size": value}, fields, "config")
    for value in ("large", "20", 0, -1, 2.5, None, True, [20]):
        with pytest.raises(InputError, match=r"^config\.batch_size must be a whole number"):
            check_fields({"batch_size": value}, fields, "config")


@pytest.mark.parametrize("kind", ["training", "manifold", "figures"])
def test_other_commands_take_a_number(kind):
    fields = {"batch_size": schema.SCHEMAS[kind]["batch_size"]}
    with pytest.raises(InputError, match=r"^config\.batch_size must be a whole number"):
        check_fields({"batch_size": "auto"}, fields, "config")


@pytest.mark.parametrize("before", [10, "auto"])
@pytest.mark.parametrize(("text", "after"), [("auto", "auto"), ("20", 20)])
def test_the_command_line_changes_one_into_the_other(before, text, after):
    config = {"batch_size": before}
    configuration.apply(config, [f"config.batch_size={text}"])
    assert config == {"batch_size": after}
    configuration.apply(config, ["config.batch_size=Auto"])
    fields = {"batch_size": schema.SCHEMAS["evaluation"]["batch_size"]}
    with pytest.raises(InputError, match=r"^config\.batch_size must be a whole number or 'auto', not 'Auto'"):
        check_fields(config, fields, "config")


def test_a_run_says_what_memory_it_needs(tmp_path, reporter, said):
    gray_box.run(make_experiment(), tmp_path, reporter)
    words = (
        r"Memory: at most about (.*) GB, less than 1 MB of it for batches of 3 images \((.*?)\)(; more .*)?\n"
    )
    lines = re.findall(words, said.getvalue())
    assert 1 <= len(lines) == said.getvalue().count("Memory") <= 2
    assert float(lines[-1][0]) * 1e9 >= 0.9 * memory.resident()
    assert lines[-1][1] in ("FGSM-2", "I-FGSM", "none", "WD")
    # A complete run needs nothing.
    said.truncate(0)
    gray_box.run(make_experiment(), tmp_path, reporter)
    assert "Memory" not in said.getvalue()


def test_what_does_not_fit_is_said_at_once(reporter, said, monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 2_500_000_000)
    report = MemoryReport(reporter, 16, None, jax.local_devices()[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.add(("predictions", "none"), 2_000_000_000)
    with pytest.warns(SrdefWarning, match="need about 9.0 GB .* 2.5 GB are free; batch_size=4 would fit"):
        report.add(("adversarial", "C&W"), 9_000_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.add(("adversarial", "FAB"), 10_000_000_000)  # once is enough
    report.tell()
    assert "10.0 GB of it for batches of 16 images (FAB)\n" in said.getvalue()


def test_the_line_comes_with_the_first_attack_and_again_with_the_last_program(reporter, said):
    report = MemoryReport(reporter, 16, None, jax.local_devices()[:1])

    def told():
        text = said.getvalue()
        said.truncate(0)
        said.seek(0)
        return text

    report.add(("predictions", "none"), 1_000_000)
    report.tell(left=5)
    assert told() == ""
    report.add(("adversarial", "C&W"), 3_000_000)
    report.tell(left=4)
    assert "3 MB of it for batches of 16 images (C&W); more is not compiled yet\n" in told()
    report.add(("adversarial", "FAB"), 5_000_000)
    report.tell(left=3)
    assert told() == ""
    report.tell()
    assert "5 MB of it for batches of 16 images (FAB)\n" in told()
    report.tell()
    assert told() == ""


def test_of_an_accelerator_its_own_memory_counts(reporter, said, monkeypatch):
    accelerator(monkeypatch, 8_000_000_000)
    monkeypatch.setattr(memory_report.memory, "of_arrays", lambda tree: 500_000_000)
    devices = [type("Device", (), {"platform": "gpu"})()] * 2
    report = MemoryReport(reporter, 20, None, devices)
    report.add(("adversarial", "C&W"), 3_000_000_000)
    report.tell()
    assert said.getvalue() == (
        "Memory of each device: at most about 3.5 GB of 8.0 GB, 3.0 GB of it for batches of 20 images (C&W)\n"
    )
    with pytest.warns(SrdefWarning, match=r"about 9.0 GB of memory \(FAB\), and 7.5 GB of .*batch_size=10"):
        report.add(("adversarial", "FAB"), 9_000_000_000)
