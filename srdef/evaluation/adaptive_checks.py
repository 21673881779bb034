"""The self-checks of `self_checks`, run on every defense of an adaptive experiment."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from srdef import attacks, victims
from srdef.errors import InputError
from srdef.evaluation import self_checks
from srdef.evaluation.adaptive import AdaptiveExperiment
from srdef.evaluation.protocol import Reporter
from srdef.evaluation.self_checks import Check
from srdef.evaluation.source import code_digest
from srdef.evaluation.store import canonical_json, digest, write_atomically
from srdef.victims import Defended, ExpectationOverTransformation, Victim

FIELDS = ("epsilon", "images", "steps", "queries", "draws")


def options(experiment: AdaptiveExperiment) -> dict[str, Any]:
    """`config.checks`; InputError if a field is missing or unknown."""
    found = experiment.config["checks"]
    if not isinstance(found, dict) or set(found) != set(FIELDS):
        raise InputError(f"config.checks must have the fields {', '.join(FIELDS)}, not {found!r}")
    return found


def strongest(experiment: AdaptiveExperiment, defense: str, draws: int) -> tuple[str, Victim]:
    """The attacker who knows most: his name for the gradient, and the victim he differentiates."""
    protected = experiment.defenses[defense]
    gradient: Any
    if protected.surrogate is not None:
        name, gradient = "surrogate's gradient", protected.surrogate
    elif protected.defense.differentiable:
        name, gradient = "exact gradient", "exact"
    else:
        name, gradient = "identity gradient (BPDA)", "identity"
    victim: Victim = Defended(experiment.classifier, protected.defense, gradient)
    if protected.defense.random:
        return f"{name}, EOT over {draws} draws", ExpectationOverTransformation(victim, draws)
    return name, victim


def run(experiment: AdaptiveExperiment, folder: Path, reporter: Reporter) -> str:
    """Check every defense; what `folder` already holds is not computed again.

    Returns
    -------
    str
        Markdown: a section for each defense.
    """
    parts = []
    for defense in experiment.defenses:
        name, checks = _checked(experiment, defense, folder / "checks", reporter)
        parts.append(f"### {defense}: {name}\n\n{self_checks.to_markdown(checks)}")
    return "\n".join(parts)


def _checked(
    experiment: AdaptiveExperiment, defense: str, folder: Path, reporter: Reporter
) -> tuple[str, list[Check]]:
    chosen = options(experiment)
    name, victim = strongest(experiment, defense, chosen["draws"])
    dataset = experiment.dataset
    manifest = canonical_json(
        {
            "dataset": dataset.digest(),
            "victim": digest(victim),
            "seed": experiment.seed,
            "code": code_digest(
                victim,
                attacks.pgd,
                attacks.square,
                attacks.perturb,
                attacks.share_correct,
                victims,
                self_checks,
            ),
            **chosen,
        }
    )
    path = folder / f"{hashlib.sha256(manifest.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return name, [Check(**entry) for entry in json.loads(path.read_text())]
    # The first images that classifier and defense together have right.
    size = experiment.batch_size
    right = attacks.share_correct(
        victim, dataset.images, dataset.labels, key=experiment.key(1), ids=dataset.ids, batch_size=size
    )
    rows = np.flatnonzero(right == 1)[: chosen["images"]]
    if not len(rows):
        raise InputError(f"defense {defense!r}: the classifier has none of the defended images right")
    with reporter.step(f"{defense}: checks", len(rows), len(rows)) as advance:
        subject = self_checks.Subject(
            victim,
            dataset.images[rows],
            dataset.labels[rows],
            experiment.key(3),
            epsilon=chosen["epsilon"],
            steps=chosen["steps"],
            queries=chosen["queries"],
            draws=experiment.draws(defense),
            ids=dataset.ids[rows],
        )
        checks = self_checks.run_all(subject)
        advance(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps([asdict(check) for check in checks], indent=1))
    return name, checks
