"""The self-checks of `self_checks`, run on every defense of an adaptive experiment."""

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from srdef import attacks, victims
from srdef.evaluation import self_checks
from srdef.evaluation.adaptive import AdaptiveExperiment, check_options
from srdef.evaluation.progress import Reporter
from srdef.evaluation.self_checks import Check
from srdef.storage.files import canonical_json, write_atomically
from srdef.storage.fingerprint import code_digest, digest
from srdef.victims import Defended, ExpectationOverTransformation, Victim

# Of the loss landscape, along each direction.
POINTS = 13


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


def run(experiment: AdaptiveExperiment, folder: Path, reporter: Reporter, pictures: Path) -> str:
    """Check every defense; what `folder` already holds is not computed again.

    Parameters
    ----------
    experiment : AdaptiveExperiment
    folder : Path
        Of the stores.
    reporter : Reporter
    pictures : Path
        Receives `landscape_NUMBER_DEFENSE.png`: the loss around the first of the images, along the
        gradient and along a random direction.

    Returns
    -------
    str
        Markdown: a section for each defense.
    """
    parts = []
    for number, defense in enumerate(experiment.defenses, 1):
        name, checks, landscape = _checked(experiment, defense, folder / "checks", reporter)
        text = "Classifier and defense together have no image right, so there is nothing to check.\n"
        if checks:
            # The number, as two names may differ in their signs alone.
            picture = f"landscape_{number}_{re.sub(r'[^0-9a-zA-Z]+', '_', defense)}.png"
            epsilon = check_options(experiment.config)["epsilon"]
            self_checks.save_landscape(pictures / picture, landscape, epsilon=epsilon, title=defense)
            text = f"{self_checks.to_markdown(checks)}\n![Loss landscape of {defense}]({picture})\n"
        parts.append(f"### {defense}: {name}\n\n{text}")
    return "\n".join(parts)


def _checked(
    experiment: AdaptiveExperiment, defense: str, folder: Path, reporter: Reporter
) -> tuple[str, list[Check], np.ndarray]:
    """The attacker's name, the checks (none where no image is right), and the losses around one image."""
    chosen = check_options(experiment.config)
    name, victim = strongest(experiment, defense, chosen["draws"])
    protected = experiment.defenses[defense].defense
    # What is attacked may be an average over draws; what counts is the defense.
    judge = Defended(experiment.classifier, protected)
    draws = experiment.draws(defense)
    dataset = experiment.dataset
    manifest = canonical_json(
        {
            "dataset": dataset.digest(),
            "victim": digest(victim),
            "judge": digest(judge),
            "judge_draws": draws,
            "points": POINTS,
            "seed": experiment.seed,
            "code": code_digest(
                victim,
                attacks.pgd,
                attacks.square,
                attacks.perturb,
                attacks.accuracy_over_draws,
                victims,
                self_checks,
            ),
            **chosen,
        }
    )
    path = folder / f"{hashlib.sha256(manifest.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        found = json.loads(path.read_text())
        return name, [Check(**entry) for entry in found["checks"]], np.array(found["landscape"])
    # The first images that classifier and defense together have right, of a random one in most draws.
    right = attacks.accuracy_over_draws(
        judge,
        dataset.images,
        dataset.labels,
        key=experiment.key(1),
        ids=dataset.ids,
        draws=draws,
        batch_size=experiment.batch_size,
    )
    rows = np.flatnonzero(right > 0.5)[: chosen["images"]]
    if not len(rows):
        return name, [], np.zeros((0, 0))
    with reporter.step(f"{defense}: checks", len(rows), len(rows)) as advance:
        subject = self_checks.Subject(
            victim,
            dataset.images[rows],
            dataset.labels[rows],
            experiment.key(3),
            epsilon=chosen["epsilon"],
            steps=chosen["steps"],
            queries=chosen["queries"],
            draws=draws,
            effort=chosen["effort"],
            ids=dataset.ids[rows],
            judge=judge,
            random=protected.random,
        )
        checks = self_checks.run_all(subject)
        landscape = self_checks.loss_landscape(
            victim,
            subject.images[0],
            int(subject.labels[0]),
            key=experiment.key(3),
            epsilon=chosen["epsilon"],
            points=POINTS,
        )
        advance(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    found = {"checks": [asdict(check) for check in checks], "landscape": landscape.tolist()}
    write_atomically(path, json.dumps(found, indent=1))
    return name, checks, landscape
