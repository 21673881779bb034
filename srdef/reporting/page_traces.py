"""The picture of what attacks did on their way, for a report page."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from srdef import attacks, victims
from srdef.attacks.trace import has_trace
from srdef.errors import InputError
from srdef.evaluation.experiment import resolve
from srdef.reporting import style, text_page, trace_plots
from srdef.reporting.page_images import images_of

NAME = "trace"


def section(
    workdir: Path,
    config: dict[str, Any],
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    count: int,
) -> str:
    """Attack some images once more, and draw margin, loss and success over the steps.

    Leaves `trace.pdf` and `trace.png` in `workdir`.

    Parameters
    ----------
    workdir, config, records
        Of the finished evaluation.
    labels : sequence of str
        The attacks, by their labels in the configuration.
    count : int
        How many images: the first that are classified correctly when clean.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    InputError
        If an attack is not one of the run or has no trace, or the configuration cannot be resolved here.
    """
    experiment = resolve(config)
    for label in labels:
        if label not in experiment.attacks:
            known = ", ".join(experiment.attacks)
            raise InputError(f"unknown attack {label!r}; the run has: {known}")
    first = {r["image_id"]: r for r in records if r["attack"] == labels[0]}
    shown = list(first.values())[:count]
    ids = np.array([record["image_id"] for record in shown])
    images = images_of(experiment.dataset, shown)
    traces = {}
    for label in labels:
        attack = experiment.attacks[label]
        if not has_trace(attack):
            raise InputError(f"attack {label!r} has no trace, as it runs several: --trace cannot draw it")
        traces[label] = attacks.perturb(
            attack,
            victims.Undefended(experiment.classifier),
            images,
            np.array([record["label"] for record in shown]),
            key=experiment.attack_key,
            ids=ids,
            trace=True,
            arithmetic=experiment.arithmetic,
        ).trace
    style.save(trace_plots.trace_figure(traces), workdir / NAME)
    return (
        "<h2>What the attacks did</h2>"
        + text_page.picture(workdir / f"{NAME}.png", "Margin, loss and success over the steps")
        + f"<p>{escape(', '.join(labels))}, once more and undefended (images: {len(ids)}): "
        "medians and quartiles. Above a margin of 0 an image is fooled.</p>"
    )
