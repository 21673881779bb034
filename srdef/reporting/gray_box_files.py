"""The files that a finished evaluation leaves in its workdir."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

import srdef
from srdef import defenses
from srdef.attacks import arithmetic
from srdef.datasets.reading import read_image
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.gray_box import Outcome
from srdef.evaluation.paper_tables import Reference
from srdef.evaluation.predictions import defended_images
from srdef.evaluation.summaries import summarize
from srdef.own_code.by_name import imports
from srdef.reporting import tables
from srdef.storage import results
from srdef.storage.files import canonical_json, write_atomically

if TYPE_CHECKING:  # a third of a second of every start
    import pyarrow as pa


def storage_notes(experiment: Experiment) -> list[str]:
    """What the adversarial images were stored as, in words."""
    words = {"uint8": "rounded to 8 bits before they were defended and counted", "float32": "kept as float32"}
    notes = []
    for storage, meaning in words.items():
        labels = [label for label, value in experiment.storage.items() if value == storage]
        if labels:
            notes.append(f"Adversarial images {meaning}: {', '.join(labels)}.")
    return notes


def label_notes(experiment: Experiment) -> list[str]:
    """What the labels are, in words, where the data set has not all of them."""
    labels = experiment.dataset.labels
    predicted = int((labels < 0).sum())
    if not predicted:
        return []
    return [
        f"The label of {predicted} of the {len(labels)} images is the classifier's own prediction on the "
        "clean image, so that they count as classified correctly."
    ]


def build_table(experiment: Experiment, records: "pa.Table") -> tables.ResultTable:
    """The paper's table from the records of `gray_box.run`."""
    summary = summarize(records, attacks=[CLEAN, *experiment.attacks], defenses=list(experiment.defenses))
    steps = arithmetic.note(experiment.arithmetic)
    notes = (*label_notes(experiment), *storage_notes(experiment), *([steps] if steps else []))
    return tables.ResultTable(summary, experiment.seed, notes, Reference.of(experiment.config))


# Of the models of users, if they have imported them.
_FRAMEWORKS = ("equinox", "keras", "sklearn", "tensorflow", "timm", "torch", "torchvision", "transformers")


def environment(steps: arithmetic.Arithmetic | None = None) -> dict[str, Any]:
    """Versions, devices and arithmetic of this process, and the frameworks and own files that it imported.

    `steps` is the arithmetic of the attacks' steps, where they have one of their own.
    """
    own = imports()
    return {
        "srdef": srdef.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "flax", "optax", "jaxwt", "numpy")},
        **{
            name: str(getattr(sys.modules[name], "__version__", "unknown"))
            for name in _FRAMEWORKS
            if name in sys.modules
        },
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # type: ignore[attr-defined]
        **({"attack_arithmetic": steps} if arithmetic.note(steps) else {}),
        "devices": [device.device_kind for device in jax.local_devices()],
        **({"imports": own} if own else {}),
    }


def write_setting(workdir: Path, config: dict[str, Any], steps: arithmetic.Arithmetic | None) -> None:
    """Write `config.json` and `environment.json`, which say what a run is of and where it runs.

    The results of another configuration in `workdir` are deleted.
    """
    results.begin(workdir, config)
    write_atomically(workdir / "environment.json", canonical_json(environment(steps)) + "\n")


def check_gallery(experiment: Experiment) -> tuple[str, int]:
    """The attack of the gallery and the number of its images, 0 without `config.gallery`.

    Raises
    ------
    InputError
        Unless `config.gallery` names one of the attacks and a number of images.
    """
    options = experiment.config.get("gallery", {"attack": "", "images": 0})
    if not isinstance(options, dict) or set(options) != {"attack", "images"}:
        raise InputError(f"config.gallery must have the fields attack and images, not {options!r}")
    if not isinstance(options["images"], int) or options["images"] < 0:
        raise InputError(f"config.gallery.images must be a whole number, not {options['images']!r}")
    if options["images"] and options["attack"] not in experiment.attacks:
        known = ", ".join(experiment.attacks)
        raise InputError(f"config.gallery.attack {options['attack']!r} is not one of the attacks: {known}")
    return options["attack"], options["images"]


def save_gallery(path: Path, outcome: Outcome, attack: str, count: int) -> None:
    """Draw the first `count` clean-correct images under `attack`, with every defense."""
    from srdef.reporting import gallery  # here, as it imports matplotlib

    run = outcome.correct
    experiment, dataset = run.experiment, run.dataset.select(slice(count))
    adversarial = run.pixels(attack, slice(len(dataset)))
    named = {
        label: defense
        for label, defense in experiment.defenses.items()
        if not isinstance(defense, defenses.Identity)
    }
    defended = [defended_images(experiment, defense, adversarial, dataset.ids) for defense in named.values()]
    undefended = run.predict(adversarial)
    predicted = [run.predictions(attack, label)["prediction"] for label in named]
    clean = dataset.images
    rows = [
        gallery.GalleryRow(
            label=int(dataset.labels[index]),
            clean=clean[index],
            adversarial=adversarial[index],
            defended=[images[index] for images in defended],
            predictions=[
                int(dataset.labels[index]),
                undefended[index],
                *(prediction[index] for prediction in predicted),
            ],
        )
        for index in range(len(dataset))
    ]
    gallery.save_gallery(
        path,
        rows,
        defenses=list(named),
        class_names=dataset.class_names,
        title=f"{experiment.classifier_name} under {attack}, seed {experiment.seed}",
    )


def write(workdir: Path, experiment: Experiment, outcome: Outcome) -> tables.ResultTable:
    """Write records, table, gallery, environment and configuration; all or none of each file.

    Files that are there as they would be written are left as they are; those that were deleted or damaged
    since are written again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = build_table(experiment, outcome.records)
    sink = pa.BufferOutputStream()
    pq.write_table(outcome.records, sink, compression="zstd")
    # Where the adversarial images are: other runs may have left theirs beside them.
    stores = {attack: outcome.correct.adversarial(attack).path.name for attack in experiment.attacks}
    # Of a ball in another norm than L∞, which the curves in a report are about.
    balls = {
        label: attack.norm
        for label, attack in experiment.attacks.items()
        if "epsilon" in experiment.config["attacks"][label] and attack.norm != "linf"
    }
    texts = {
        "records.parquet": sink.getvalue().to_pybytes(),
        "table.json": table.to_json(),
        "table.md": table.to_markdown() + "\n" + tables.attacks_to_markdown(outcome.strengths),
        "attacks.json": tables.attacks_to_json(outcome.strengths, stores, balls),
        "config.json": canonical_json(experiment.config) + "\n",
    }
    contents = {name: text.encode() if isinstance(text, str) else text for name, text in texts.items()}
    # What the others belong to: this configuration, these records and images.
    another = any(
        not results.holds(workdir / name, contents[name])
        for name in ("records.parquet", "attacks.json", "config.json")
    )
    if another:
        # Report, gallery and curves are of another configuration, or of other images or weights.
        results.remove(workdir)
        if (workdir / "config.json").is_file():  # it comes last: with it the outputs are complete
            (workdir / "config.json").unlink()
    for name in contents.keys() - {"config.json"}:
        if not results.holds(workdir / name, contents[name]):
            write_atomically(workdir / name, contents[name])
    if another or not _is_json(workdir / "environment.json"):
        found = environment(experiment.arithmetic)
        write_atomically(workdir / "environment.json", canonical_json(found) + "\n")
    attack, count = check_gallery(experiment)
    if count and (another or not _is_image(workdir / "gallery.png")):
        save_gallery(workdir / "gallery.png", outcome, attack, count)
    if another:
        write_atomically(workdir / "config.json", contents["config.json"])
    return table


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _is_image(path: Path) -> bool:
    try:
        read_image(path)
    except InputError:
        return False
    return True
