"""The self-checks of `self_checks`, run on every defense of an adaptive experiment."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from srdef import attacks, batching, victims
from srdef.errors import InputError
from srdef.evaluation import loss_surface, self_checks
from srdef.evaluation.adaptive_experiment import AdaptiveExperiment, check_options
from srdef.evaluation.plain_data import other_than
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.evaluation.self_checks import Check
from srdef.storage.files import canonical_json, for_json, write_atomically
from srdef.storage.fingerprint import code_digest, digest
from srdef.victims import Defended, ExpectationOverTransformation, Victim

# How many points of the loss landscape there are along each direction.
POINTS = 13
# What a file of checks holds.
_CHECK = {"name": str, "passed": bool, "measured": str, "suggests": str, "masking": bool}
_KEPT = {"checks": [_CHECK], "landscape": [list]}


@dataclass(frozen=True)
class Checked:
    """The checks of one defense.

    Attributes
    ----------
    defense : str
    attacker : str
        Whose gradient was checked.
    checks : list of Check
        Empty where no image is classified correctly.
    landscape : array (POINTS, POINTS)
        The loss around the first of the images.
    """

    defense: str
    attacker: str
    checks: list[Check]
    landscape: np.ndarray


def strongest(experiment: AdaptiveExperiment, defense: str, draws: int) -> tuple[str, Victim]:
    """The attacker who knows most: his name for the gradient, and the victim he differentiates."""
    transformation, gradient = experiment.defenses[defense], experiment.strongest_gradient(defense)
    if gradient is None:
        name, gradient = "identity gradient (BPDA)", "identity"
    else:
        name = "exact gradient" if gradient == "exact" else "surrogate's gradient"
    victim: Victim = Defended(experiment.classifier, transformation, gradient)
    if transformation.random:
        return f"{name}, EOT over {draws} draws", ExpectationOverTransformation(victim, draws)
    return name, victim


def check_norm(experiment: AdaptiveExperiment) -> None:
    """InputError in L1, for which PGD, with which the checks compare, is not made."""
    if experiment.norm == "l1":
        raise InputError("the self-checks are made for the norms linf and l2: run with --nochecks")


def run(experiment: AdaptiveExperiment, folder: Path, reporter: Reporter) -> list[Checked]:
    """Check every defense; what `folder`, that of the stores, already holds is not computed again.

    Of several processes each checks some, and process 0 returns all, the others none.

    Raises
    ------
    InputError
        As `check_norm`.
    """
    check_norm(experiment)
    if (experiment.dataset.labels < 0).any():
        labelled, _ = Run(experiment, experiment.dataset, folder, reporter).labelled()
        experiment = replace(experiment, dataset=labelled.dataset)
    checked: dict[int, Checked] = {}
    labels, processes = list(experiment.defenses), reporter.processes
    for number in processes.divide("checks", len(labels)):
        checked[number] = _checked(experiment, labels[number], folder / "checks", reporter)
    if not processes.first:
        return []
    processes.finish()
    for number in range(len(labels)):
        if number not in checked:  # it is there
            checked[number] = _checked(experiment, labels[number], folder / "checks", reporter)
    return [checked[number] for number in range(len(labels))]


def _checked(experiment: AdaptiveExperiment, defense: str, folder: Path, reporter: Reporter) -> Checked:
    chosen = check_options(experiment.config, experiment.norm)
    name, victim = strongest(experiment, defense, chosen["draws"])
    transformation = experiment.defenses[defense]
    # What is attacked may be an average over draws; what counts is the defense.
    judge = Defended(experiment.classifier, transformation)
    draws = experiment.draws(defense)
    dataset = experiment.dataset
    manifest = canonical_json(
        {
            "dataset": dataset.digest(),
            "victim": digest(victim),
            "judge": digest(judge),
            "judge_draws": draws,
            "points": POINTS,
            "norm": experiment.norm,
            "seed": experiment.seed,
            "code": code_digest(
                victim,
                attacks.pgd,
                attacks.square,
                attacks.uniform_noise,
                attacks.perturb,
                attacks.accuracy_over_draws,
                victims,
                self_checks,
                loss_surface,
            ),
            **chosen,
        }
    )
    path = folder / f"{hashlib.sha256(manifest.encode()).hexdigest()[:16]}.json"
    if (kept := _kept(path)) is not None:
        return Checked(defense, name, *kept)
    # The first images that classifier and defense together classify correctly, of a random one in most draws.
    found_rows: list[int] = []
    for batch in batching.slices(len(dataset), experiment.batch_size):
        correct = attacks.accuracy_over_draws(
            judge,
            dataset.batch(batch),
            dataset.labels[batch],
            key=experiment.key(1),
            ids=dataset.ids[batch],
            draws=draws,
            batch_size=experiment.batch_size,
        )
        found_rows += (batch.start + np.flatnonzero(correct > 0.5)).tolist()
        if len(found_rows) >= chosen["images"]:
            break
    rows = np.array(found_rows[: chosen["images"]], int)
    if not len(rows):
        return Checked(defense, name, [], np.zeros((0, 0)))
    with reporter.step(f"{defense}: checks", len(rows), len(rows)) as advance:
        subject = self_checks.Subject(
            victim,
            dataset.batch(rows),
            dataset.labels[rows],
            experiment.key(3),
            epsilon=chosen["epsilon"],
            norm=experiment.norm,
            steps=chosen["steps"],
            queries=chosen["queries"],
            draws=draws,
            effort=chosen["effort"],
            ids=dataset.ids[rows],
            judge=judge,
            random=transformation.random,
        )
        checks = self_checks.run_all(subject)
        landscape = loss_surface.loss_landscape(
            victim,
            subject.images[0],
            int(subject.labels[0]),
            key=experiment.key(3),
            epsilon=chosen["epsilon"],
            norm=experiment.norm,
            points=POINTS,
        )
        advance(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    found = {"checks": [asdict(check) for check in checks], "landscape": landscape.tolist()}
    write_atomically(path, json.dumps(for_json(found), indent=1, allow_nan=False))
    return Checked(defense, name, checks, landscape)


def _kept(path: Path) -> tuple[list[Check], np.ndarray] | None:
    """The checks and the landscape in a file; None if it is not there or not what `_checked` writes."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if other_than(_KEPT, found, "it") or not found["checks"]:
            return None
        landscape = np.array(found["landscape"], float)
        checks = [Check(**entry) for entry in found["checks"]]
    except (OSError, ValueError, TypeError):
        return None
    return (checks, landscape) if landscape.shape == (POINTS, POINTS) else None
