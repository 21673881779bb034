"""The files that an adaptive evaluation leaves in its workdir."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from srdef.datasets import Dataset
from srdef.evaluation.adaptive_checks import Checked
from srdef.evaluation.adaptive_experiment import AdaptiveExperiment, check_options
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.measures import FLAGS
from srdef.reporting import adaptive_plots, adaptive_tables
from srdef.storage import results
from srdef.storage.files import write_atomically


def write(workdir: Path, experiment: AdaptiveExperiment, outcome: Outcome) -> None:
    """Write `adaptive.md`, `adaptive.json`, `adaptive.csv`, `records.parquet`, `curves.png` and `.pdf`."""
    contents: dict[str, str | bytes] = {
        "adaptive.md": adaptive_tables.to_markdown(outcome),
        "adaptive.json": adaptive_tables.to_json(outcome),
        "adaptive.csv": adaptive_tables.to_csv(outcome),
    }
    if outcome.dataset is not None:
        sink = pa.BufferOutputStream()
        pq.write_table(records(outcome, outcome.dataset), sink, compression="zstd")
        contents["records.parquet"] = sink.getvalue().to_pybytes()
    results.write(workdir, contents)
    subtitle = f"{experiment.classifier_name}, {outcome.images} images"
    for ending in ("png", "pdf"):
        adaptive_plots.save_curves(workdir / f"curves.{ending}", outcome, subtitle=subtitle)


def records(outcome: Outcome, dataset: Dataset) -> pa.Table:
    """One row for each image, defense, threat (or "clean") and ε that was attacked.

    `correct` is the share of draws that are classified correctly: 0 or 1 for a deterministic defense.
    """
    tables = []
    for (defense, threat), shares in outcome.judged.items():
        flags = outcome.flagged.get((defense, threat), {})
        for column, epsilon in enumerate(outcome.epsilons):
            if np.isnan(shares[:, column]).all():
                continue
            columns = {
                "image": list(dataset.names),
                "image_id": dataset.ids.astype(np.int32),
                "label": dataset.labels.astype(np.int32),
                "defense": [defense] * outcome.images,
                "threat": [threat] * outcome.images,
                "epsilon": np.full(outcome.images, epsilon),
                "correct": shares[:, column].astype(np.float32),
            }
            for name in FLAGS:
                flagged = flags[name][:, column] if name in flags else np.zeros(outcome.images, bool)
                columns[name] = flagged
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def write_checks(workdir: Path, experiment: AdaptiveExperiment, found: Sequence[Checked]) -> str:
    """Write `checks.md`, and `landscape_NUMBER_DEFENSE.png` for each defense; return the text."""
    epsilon, parts = check_options(experiment.config, experiment.norm)["epsilon"], []
    for number, checked in enumerate(found, 1):
        text = "Classifier and defense together classify no image correctly, so there is nothing to check.\n"
        if checked.checks:
            # The number, as two names may differ in their signs alone.
            picture = f"landscape_{number}_{re.sub(r'[^0-9a-zA-Z]+', '_', checked.defense)}.png"
            adaptive_plots.save_landscape(
                workdir / picture,
                checked.landscape,
                epsilon=epsilon,
                norm=experiment.norm,
                title=checked.defense,
            )
            table = adaptive_tables.checks_to_markdown(checked.checks)
            text = f"{table}\n![Loss landscape of {checked.defense}]({picture})\n"
        parts.append(f"### {checked.defense}: {checked.attacker}\n\n{text}")
    text = "\n".join(parts)
    write_atomically(workdir / "checks.md", text)
    return text
