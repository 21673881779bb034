"""The files that a finished evaluation leaves in its workdir."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import srdef
from srdef import batching, defenses
from srdef.datasets import Dataset
from srdef.errors import InputError
from srdef.evaluation import gray_box, summaries
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.paper_tables import Reference
from srdef.reporting import gallery, tables
from srdef.storage.files import canonical_json, write_atomically


def storage_notes(experiment: Experiment) -> list[str]:
    """What the attacked images were stored as, in words."""
    words = {"uint8": "rounded to 8 bits before they were defended and counted", "float32": "kept as float32"}
    notes = []
    for storage, meaning in words.items():
        labels = [label for label, value in experiment.storage.items() if value == storage]
        if labels:
            notes.append(f"Attacked images {meaning}: {', '.join(labels)}.")
    return notes


def build_table(experiment: Experiment, records: pa.Table) -> tables.ResultTable:
    """The paper's table from the records of `gray_box.run`."""
    published = experiment.config.get("paper")
    return tables.build(
        records,
        seed=experiment.seed,
        attacks=[CLEAN, *experiment.attacks],
        defenses=list(experiment.defenses),
        notes=storage_notes(experiment),
        paper=None if published is None else Reference.of(published),
    )


def environment() -> dict[str, Any]:
    """Versions, devices and arithmetic of this process."""
    return {
        "srdef": srdef.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "flax", "optax", "jaxwt", "numpy")},
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # type: ignore[attr-defined]
        "devices": [device.device_kind for device in jax.local_devices()],
    }


def check_gallery(experiment: Experiment) -> None:
    """InputError unless `config.gallery` names one of the attacks and a number of images."""
    options = experiment.config["gallery"]
    if not isinstance(options, dict) or set(options) != {"attack", "images"}:
        raise InputError(f"config.gallery must have the fields attack and images, not {options!r}")
    if not isinstance(options["images"], int) or options["images"] < 0:
        raise InputError(f"config.gallery.images must be a whole number, not {options['images']!r}")
    if options["images"] and options["attack"] not in experiment.attacks:
        known = ", ".join(experiment.attacks)
        raise InputError(f"config.gallery.attack {options['attack']!r} is not one of the attacks: {known}")


def save_gallery(
    path: Path, experiment: Experiment, outcome: gray_box.Outcome, attack: str, count: int
) -> None:
    """A picture of the first `count` clean-correct images under `attack`, with every defense."""
    store = outcome.adversarial[attack]
    correct: Dataset = outcome.dataset.select(outcome.clean_correct).select(slice(count))
    attacked = np.concatenate(
        [gray_box.read_images(store, rows) for rows in batching.slices(store.count, store.batch_size)]
    )[:count]
    named = {
        label: defense
        for label, defense in experiment.defenses.items()
        if not isinstance(defense, defenses.Identity)
    }
    defended = [
        gray_box.defended_images(experiment, defense, attacked, correct.ids) for defense in named.values()
    ]
    attacked_as = gray_box.classify(experiment, defenses.Identity(), attacked, correct.ids)["prediction"]
    records = outcome.records.filter(pc.equal(outcome.records["attack"], attack)).to_pylist()
    predicted = {(row["defense"], row["image_id"]): row["prediction"] for row in records}
    rows = []
    for index, image_id in enumerate(correct.ids):
        label = int(correct.labels[index])
        rows.append(
            gallery.GalleryRow(
                label=label,
                clean=correct.images[index],
                attacked=attacked[index],
                defended=[images[index] for images in defended],
                predictions=[label, attacked_as[index], *(predicted[name, image_id] for name in named)],
            )
        )
    gallery.save_gallery(
        path,
        rows,
        defenses=list(named),
        class_names=outcome.dataset.class_names,
        title=f"{experiment.classifier_name} under {attack}, seed {experiment.seed}",
    )


def write(workdir: Path, experiment: Experiment, outcome: gray_box.Outcome) -> tables.ResultTable:
    """Write records, table, gallery, environment and configuration; all or none of each file.

    Files that already belong to the same configuration, records and images are left as they are.
    """
    table = build_table(experiment, outcome.records)
    sink = pa.BufferOutputStream()
    pq.write_table(outcome.records, sink, compression="zstd")
    records = sink.getvalue().to_pybytes()
    config = canonical_json(experiment.config) + "\n"
    # Where the attacked images are: other runs may have left theirs beside them.
    stores = {attack: store.path.name for attack, store in outcome.adversarial.items()}
    strengths = summaries.to_json(outcome.strengths, stores)
    done = {"records.parquet": records, "attacks.json": strengths.encode(), "config.json": config.encode()}
    if all((workdir / name).is_file() and (workdir / name).read_bytes() == new for name, new in done.items()):
        return table
    # The configuration comes last: with it the outputs are complete.
    (workdir / "config.json").unlink(missing_ok=True)
    write_atomically(workdir / "records.parquet", records)
    write_atomically(workdir / "table.json", table.to_json())
    write_atomically(
        workdir / "table.md", table.to_markdown() + "\n" + summaries.to_markdown(outcome.strengths)
    )
    write_atomically(workdir / "attacks.json", strengths)
    write_atomically(workdir / "environment.json", canonical_json(environment()) + "\n")
    picture = experiment.config["gallery"]
    if picture["images"]:
        save_gallery(workdir / "gallery.png", experiment, outcome, picture["attack"], picture["images"])
    write_atomically(workdir / "config.json", config)
    return table
