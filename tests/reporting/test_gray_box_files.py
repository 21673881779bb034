"""The outputs of a run: all written, and again where they were deleted or damaged."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from toys import make_experiment

from srdef.errors import InputError
from srdef.evaluation import gray_box, progress
from srdef.reporting import gray_box_files

TEXTS = ("records.parquet", "table.json", "table.md", "attacks.json", "config.json")
FILES = (*TEXTS, "environment.json", "gallery.png")


def with_gallery():
    experiment = make_experiment()
    return replace(experiment, config={**experiment.config, "gallery": {"attack": "FGSM-9", "images": 2}})


def run(workdir, experiment=None):
    """The run's lines, and what it left."""
    experiment = with_gallery() if experiment is None else experiment
    lines = io.StringIO()
    reporter = progress.Reporter(Console(file=lines, width=200))
    outcome = gray_box.run(experiment, workdir / "store", reporter)
    gray_box_files.write(workdir, experiment, outcome)
    return lines.getvalue(), {name: (workdir / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(workdir)[1]


def test_a_finished_run_leaves_its_files_as_they_are(finished):
    workdir, files = finished
    before = {name: (workdir / name).stat().st_mtime_ns for name in FILES}
    assert run(workdir) == ("", files)
    assert {name: (workdir / name).stat().st_mtime_ns for name in FILES} == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut"])
def test_outputs_that_are_gone_or_damaged_are_written_again(finished, name, damage):
    workdir, files = finished
    path = workdir / name
    path.unlink() if damage == "deleted" else path.write_bytes(files[name][: 20 * (damage == "cut")])
    assert run(workdir) == ("", files)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_an_output_is_one_line(finished, name):
    workdir, files = finished
    (workdir / name).unlink()
    (workdir / name).mkdir()
    try:
        with pytest.raises(InputError, match=rf"cannot (write|delete) .*{name} \(Is a directory\)"):
            run(workdir)
    finally:
        (workdir / name).rmdir()
    assert run(workdir)[1] == files


def test_deleted_and_damaged_batches_are_computed_again_and_the_run_says_so(tmp_path):
    """Not a table of black images: the images of one attack and all that was said of them are gone."""
    _, files = run(tmp_path)
    (adversarial,) = (tmp_path / "store/adversarial").glob("FGSM-9-*")
    (adversarial / "images/0.0.0.0").unlink()
    cut = adversarial / "images/1.0.0.0"
    cut.write_bytes(cut.read_bytes()[:-9])
    for said in (tmp_path / "store/predictions").glob("FGSM-9-*"):
        (said / "prediction/0").unlink()
    for name in TEXTS:
        (tmp_path / name).unlink()
    lines, again = run(tmp_path)
    assert again == files
    assert f"attack FGSM-9: files are missing or damaged in {adversarial}" in lines
    assert "computing images 0 to 2, 3 to 5 again" in lines
    assert lines.count("files are missing or damaged") == 3
    assert run(tmp_path) == ("", files)


def test_predicted_labels_are_said_to_be_predictions(tmp_path):
    """Or all images would seem to be classified correctly."""
    experiment = with_gallery()
    labels = np.where(np.arange(7) < 5, -1, experiment.dataset.labels).astype(np.int32)
    experiment = replace(experiment, dataset=replace(experiment.dataset, labels=labels))
    _, files = run(tmp_path, experiment)
    assert "The label of 5 of the 7 images is the classifier's own prediction" in files["table.md"].decode()
