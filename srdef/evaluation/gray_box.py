"""The gray-box protocol of the paper: attack the classifier, defend the images, count.

Images that are classified correctly are attacked without knowledge of any defense; then every
defense is applied to the same adversarial images, and the classifier is asked again. Each step goes
through a store, so a run continues where it was stopped and repeats nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.measures import MEASURES, read_measures
from srdef.evaluation.memory_report import MemoryReport
from srdef.evaluation.programs import Programs, of_evaluation
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.evaluation.summaries import Strength

if TYPE_CHECKING:  # a third of a second of every start
    import pyarrow as pa

# The columns of the records, with their Arrow types.
RECORDS = {
    "image": "string",
    "image_id": "int32",
    "label": "int32",
    "classifier": "string",
    "attack": "string",
    "defense": "string",
    "prediction": "int32",
    "confidence": "float32",
    "correct": "bool",
    "clean_correct": "bool",
    "fooled": "bool",
    "linf": "float32",
    "l2": "float32",
    "storage": "string",
    "nonfinite": "bool",
    "zero_gradient": "bool",
}


@dataclass(frozen=True)
class Outcome:
    """What `run` leaves.

    Attributes
    ----------
    records : pyarrow.Table
        One row per (image, attack, defense), with the columns of `RECORDS`.
    strengths : list of Strength
        Success and distances of each attack, as stored; in 8 bits too if stored as float32.
    everything : Run
        About all images, with the labels that were used.
    correct : Run
        About the images that are classified correctly when clean.
    """

    records: "pa.Table"
    strengths: list[Strength]
    everything: Run
    correct: Run


def run(experiment: Experiment, folder: Path | None, reporter: Reporter) -> Outcome:
    """Attack, defend and classify; compute only what `folder` does not hold yet.

    Returns
    -------
    Outcome
        Its records have one row per (image, attack, defense): for the clean images all of them,
        for each attack those that the undefended classifier classifies correctly when clean.

    Raises
    ------
    InputError
        If no image is classified correctly, or the folder cannot be written.
    """
    shape, size = experiment.dataset.image_shape, experiment.batch_size
    report = MemoryReport(reporter, size, (experiment.classifier, experiment.defenses))
    with Programs(of_evaluation(experiment, size, shape), report=report) as programs:
        run = Run(experiment, experiment.dataset, folder, reporter, programs.ahead_of)
        everything, clean_correct = run.labelled()
        correct = everything.select(clean_correct)
        about = {"predictions": everything, "adversarial": correct}
        programs.keep(lambda stage: about[stage[0]].lacks(*stage))
        return _run(everything, correct, clean_correct)


def _run(everything: Run, correct: Run, clean_correct: np.ndarray) -> Outcome:
    import pyarrow as pa

    experiment = everything.experiment
    untouched = {name: np.zeros(len(clean_correct), dtype) for name, (_, dtype) in MEASURES.items()}
    untouched["success"] = ~clean_correct
    tables = [
        _records(everything, CLEAN, defense, clean_correct, untouched) for defense in experiment.defenses
    ]
    strengths = []
    for attack in experiment.attacks:
        measures = read_measures(correct.adversarial(attack))
        strengths.append(Strength.of(attack, experiment.storage[attack], measures))
        if experiment.storage[attack] == "float32":
            strengths.append(Strength.of(attack, "uint8", read_measures(correct.rounded(attack))))
        kept = clean_correct[clean_correct]
        tables += [_records(correct, attack, defense, kept, measures) for defense in experiment.defenses]
    return Outcome(pa.concat_tables(tables), strengths, everything, correct)


def _records(
    run: Run, attack: str, defense: str, clean_correct: np.ndarray, measures: dict[str, np.ndarray]
) -> "pa.Table":
    """The rows of one (attack, defense)."""
    import pyarrow as pa

    experiment, dataset = run.experiment, run.dataset
    result = run.predictions(attack, defense)
    columns = {
        "image": list(dataset.names),
        "image_id": dataset.ids,
        "label": dataset.labels,
        "classifier": [experiment.classifier_name] * len(dataset),
        "attack": [attack] * len(dataset),
        "defense": [defense] * len(dataset),
        "prediction": result["prediction"],
        "confidence": result["confidence"],
        "correct": result["prediction"] == dataset.labels,
        "clean_correct": clean_correct,
        "fooled": measures["success"],
        "linf": measures["linf"],
        "l2": measures["l2"],
        "storage": [experiment.storage.get(attack, "uint8")] * len(dataset),
        "nonfinite": measures["nonfinite"].astype(bool),
        "zero_gradient": measures["zero_gradient"].astype(bool),
    }
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in RECORDS.items()])
    return pa.table(columns, schema=schema)
