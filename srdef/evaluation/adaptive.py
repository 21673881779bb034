"""Accuracy of a defended classifier against attackers who know more and more of it.

Each *threat* names what the attacker knows and the attack; each is run at a list of ε against every
defense. Images are those that the undefended classifier gets right, and an accuracy is the share of
them that classifier and defense together get right. Random defenses are attacked without stopping at
the first success, which may be one lucky draw, and judged by the mean over fresh draws, never those that
the attack has seen.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

import srdef
from srdef import attacks, batching, datasets, defenses, models, victims
from srdef.datasets import Dataset
from srdef.defenses.base import Defense
from srdef.errors import InputError
from srdef.evaluation.experiment import (
    check_fields,
    make_defense,
    refuse_own_patches,
    specification,
    subsections,
)
from srdef.evaluation.gray_box import labelled, predict
from srdef.evaluation.progress import Reporter
from srdef.models.protocols import Classifier
from srdef.storage.fingerprint import code_digest, digest
from srdef.storage.store import BatchStore
from srdef.validation import check_count, check_epsilon
from srdef.victims import Defended, ExpectationOverTransformation, Undefended, Victim

CLEAN = "clean"
WORST = "worst case"

Knowledge = Literal["classifier", "other classifier", "identity", "gradient", "expectation", "scores"]
"""What an attacker knows.

- "classifier": the classifier and not the defense (the paper's gray box).
- "other classifier": only another classifier (transfer).
- "identity": the defense, whose gradient it replaces by the identity (BPDA).
- "gradient": the defense and its gradient: its own, or that of the surrogate the configuration
  gives. Defenses with neither have no such column.
- "expectation": the same, averaged over draws (EOT), with the identity's gradient where there is no
  other; random defenses only.
- "scores": the logits of classifier and defense together, no gradient.
"""

# Attackers who do not look at the defense: one attacked image serves all defenses.
BLIND = ("classifier", "other classifier")

CHECK_FIELDS = ("epsilon", "images", "steps", "queries", "draws", "effort")

FIELDS = (
    "seed",
    "dataset",
    "classifier",
    "other_classifier",
    "defenses",
    "threats",
    "epsilons",
    "final_draws",
    "batch_size",
    "checks",
    "rows",
    "columns",
)


@dataclass(frozen=True)
class Threat:
    """One attacker.

    Attributes
    ----------
    knows : Knowledge
    attack : dict
        Name and options of a registered attack with a budget, without its epsilon.
    draws : int
        For "expectation": draws averaged in each step.
    epsilons : tuple of float, optional
        Those of the experiment's ε at which it attacks; default: all.
    """

    knows: Knowledge
    attack: dict[str, Any]
    draws: int = 1
    epsilons: tuple[float, ...] | None = None

    def attacks_at(self, epsilon: float) -> bool:
        """Whether this ε is one of its own."""
        return self.epsilons is None or epsilon in self.epsilons

    def make(self, epsilon: float, random: bool = False) -> attacks.Attack:
        """The attack with this budget, for a random or a deterministic victim."""
        options = dict(self.attack)
        attack = attacks.create(options.pop("name"), epsilon=epsilon, **options)
        return attacks.without_early_stop(attack) if random else attack


@dataclass(frozen=True)
class Protected:
    """A defense, and what stands for its gradient if its own is of no use."""

    defense: Defense
    surrogate: Defense | None


@dataclass(frozen=True)
class AdaptiveExperiment:
    """A configuration, resolved."""

    config: dict[str, Any]
    dataset: Dataset
    classifier: Classifier
    other: Classifier
    defenses: dict[str, Protected]
    threats: dict[str, Threat]
    epsilons: tuple[float, ...]
    final_draws: int
    batch_size: int
    seed: int

    @cached_property
    def digests(self) -> dict[str, str]:
        """Hashes of the weights, for the manifests of the stores."""
        return {"classifier": digest(self.classifier), "other_classifier": digest(self.other)}

    def key(self, purpose: int) -> jax.Array:
        """Attacks (0), judging (1) and choosing the worst case (2) draw from keys of their own."""
        return jax.random.fold_in(jax.random.key(self.seed), purpose)

    def draws(self, defense: str) -> int:
        """How many draws judge a defense."""
        return self.final_draws if self.defenses[defense].defense.random else 1

    def victim(self, threat: Threat, defense: str) -> Victim | None:
        """What the attacker differentiates; None where the threat makes no sense."""
        if threat.knows == "classifier":
            return Undefended(self.classifier)
        if threat.knows == "other classifier":
            return Undefended(self.other)
        protected = self.defenses[defense]
        if threat.knows in ("identity", "scores"):
            return Defended(self.classifier, protected.defense, gradient="identity")
        gradient: Any = protected.surrogate
        if gradient is None:
            gradient = "exact" if protected.defense.differentiable else None
        if threat.knows == "gradient":
            return None if gradient is None else Defended(self.classifier, protected.defense, gradient)
        if not protected.defense.random:
            return None
        single = Defended(self.classifier, protected.defense, gradient or "identity")
        return ExpectationOverTransformation(single, threat.draws)


def resolve(config: dict[str, Any]) -> AdaptiveExperiment:
    """Make everything that `config` names (see `configs/adaptive.py`), before any work starts.

    Raises
    ------
    InputError
        For unknown or missing fields, names and options, or unreadable files.
    """
    check_fields(config, FIELDS)
    for name in ("batch_size", "final_draws"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise InputError(f"config.{name} must be a whole number of at least 1, not {config[name]!r}")
    if config["final_draws"] == 1:
        raise InputError("config.final_draws must be at least 2: some choose the worst case, others judge it")
    if not isinstance(config["seed"], int):
        raise InputError(f"config.seed must be a whole number, not {config['seed']!r}")
    check_options(config)
    epsilons = tuple(config["epsilons"])
    for epsilon in epsilons:
        check_epsilon(epsilon, "linf")
    if not epsilons or list(epsilons) != sorted(set(epsilons)) or epsilons[0] <= 0:
        raise InputError(f"config.epsilons must be positive and rising, not {list(epsilons)}")

    options = specification(config, "classifier")
    classifier = models.create(options.pop("name"), **options)
    options = specification(config, "other_classifier")
    other = models.create(options.pop("name"), **options)
    columns = _chosen(config, "columns", "threats")
    threats = {label: _threat(label, entry, epsilons) for label, entry in columns.items()}
    rows = _chosen(config, "rows", "defenses")
    for label, entry in rows.items():
        own = entry.get("defense", entry) if isinstance(entry, dict) else entry
        refuse_own_patches(label, own, config["dataset"])
    protected = {label: _protected(label, entry, classifier) for label, entry in rows.items()}
    options = specification(config, "dataset")
    dataset = datasets.load(options.pop("name"), **options)
    for network in (classifier, other):
        if dataset.num_classes != network.num_classes:
            raise InputError(
                f"the data set has {dataset.num_classes} classes, a classifier {network.num_classes}"
            )
    if (dataset.labels < 0).any():
        predicted = predict(classifier, dataset.images, config["batch_size"])
        dataset, _ = labelled(dataset, predicted, config["classifier"]["name"])
    return AdaptiveExperiment(
        config,
        dataset,
        classifier,
        other,
        protected,
        threats,
        epsilons,
        config["final_draws"],
        min(config["batch_size"], len(dataset)),
        config["seed"],
    )


def _chosen(config: dict[str, Any], field: str, section: str) -> dict[str, Any]:
    """The entries of a section that `config.field` names, in its order; all of them if it is empty."""
    entries = subsections(config, section)
    for label in config[field]:
        if label not in entries:
            raise InputError(
                f"config.{field}: config.{section} has no {label!r}; choose from: {', '.join(entries)}"
            )
    return {label: entries[label] for label in config[field] or entries}


def check_options(config: dict[str, Any]) -> dict[str, Any]:
    """The options of the self-checks, `config.checks`; InputError if one is missing, unknown or bad."""
    found = config["checks"]
    if not isinstance(found, dict) or set(found) != set(CHECK_FIELDS):
        raise InputError(f"config.checks must have the fields {', '.join(CHECK_FIELDS)}, not {found!r}")
    for name in CHECK_FIELDS[1:]:
        check_count(f"config.checks.{name}", found[name])
    check_epsilon(found["epsilon"], "linf")
    if found["effort"] < 2:
        raise InputError("config.checks.effort must be at least 2")
    if found["epsilon"] == 0:
        raise InputError("config.checks.epsilon must be above 0")
    return found


def _threat(label: str, entry: Any, epsilons: tuple[float, ...]) -> Threat:
    if label in (CLEAN, WORST):
        raise InputError(f"config.threats: {label!r} is always there; choose another label")
    optional = {"draws", "epsilons"}
    if not isinstance(entry, dict) or not {"knows", "attack"} <= set(entry) <= {"knows", "attack"} | optional:
        raise InputError(
            f"threat {label!r} must have the fields knows and attack, and may have draws and epsilons"
        )
    if entry["knows"] not in get_args(Knowledge):
        raise InputError(
            f"threat {label!r}: unknown knowledge {entry['knows']!r}; "
            f"choose from: {', '.join(get_args(Knowledge))}"
        )
    own = entry.get("epsilons")
    own = None if own is None else tuple(own)
    if own is not None and not set(own) <= set(epsilons):
        raise InputError(f"threat {label!r}: epsilons must be some of config.epsilons, not {list(own)}")
    if "draws" in entry and entry["knows"] != "expectation":
        raise InputError(f"threat {label!r}: draws are for an attacker who knows the expectation")
    check_count(f"threat {label!r}: draws", entry.get("draws", 1))
    threat = Threat(entry["knows"], specification(entry, "attack"), entry.get("draws", 1), own)
    threat.make(epsilons[0])
    return threat


def _protected(label: str, entry: Any, classifier: Classifier) -> Protected:
    """A defense as in other configurations, or `{"defense": ..., "surrogate": ...}`."""
    if isinstance(entry, dict) and "defense" in entry:
        if set(entry) != {"defense", "surrogate"}:
            raise InputError(f"defense {label!r} must have the fields defense and surrogate")
        surrogate = make_defense(entry["surrogate"], classifier)
        return Protected(make_defense(entry["defense"], classifier), surrogate)
    return Protected(make_defense(entry, classifier), None)


@dataclass(frozen=True)
class Outcome:
    """What `run` leaves.

    Attributes
    ----------
    images : int
        How many the undefended classifier gets right: the denominator.
    chosen, judged : dict of (defense, threat) to float array (images, epsilons)
        The share of draws that are right, twice, with draws of their own; equal for deterministic
        defenses; NaN at an ε at which the threat does not attack. "clean" has the same value at
        every ε.
    """

    images: int
    epsilons: tuple[float, ...]
    defenses: tuple[str, ...]
    threats: tuple[str, ...]
    chosen: dict[tuple[str, str], np.ndarray]
    judged: dict[tuple[str, str], np.ndarray]

    def accuracy(self, defense: str, threat: str) -> np.ndarray | None:
        """Accuracies `(epsilons,)` under one threat or in the worst case; None or NaN where not attacked."""
        shares = self.worst(defense) if threat == WORST else self.judged.get((defense, threat))
        return None if shares is None else shares.mean(axis=0)

    def worst(self, defense: str) -> np.ndarray:
        """The share of right draws `(images, epsilons)` under the worst threat for each image.

        Candidates are all threats at this and every smaller ε, and no attack. For a random defense
        the worst one is chosen with some draws and reported with others, as the smallest of
        several noisy shares would be too small.
        """
        labels = [threat for threat in (CLEAN, *self.threats) if (defense, threat) in self.judged]
        chosen = np.stack([self.chosen[defense, threat] for threat in labels])
        judged = np.stack([self.judged[defense, threat] for threat in labels])
        result = np.empty_like(judged[0])
        for e in range(len(self.epsilons)):
            # (candidates, images)
            candidates = chosen[:, :, : e + 1].transpose(0, 2, 1).reshape(-1, chosen.shape[1])
            reported = judged[:, :, : e + 1].transpose(0, 2, 1).reshape(-1, chosen.shape[1])
            # Many shares of few draws are equal: then the candidate counts that is the worst on average over
            # all images, and of those the last threat at the largest ε, which is likely the strongest. The
            # draws that report have no say: what they choose they report too low.
            tried = np.flatnonzero(~np.isnan(candidates).any(axis=1))[::-1]
            average = candidates[tried].mean(axis=1)
            order = tried[np.argsort(average, kind="stable")]
            worst = order[np.argmin(candidates[order], axis=0)]
            result[:, e] = np.take_along_axis(reported, worst[None], axis=0)[0]
        return result


@dataclass(frozen=True)
class Runner:
    """An experiment, the folder of what has been computed of it, and the images it is about."""

    experiment: AdaptiveExperiment
    folder: Path
    reporter: Reporter
    dataset: Dataset  # those that the undefended classifier gets right

    def store(self, kind: str, label: str, fields: dict[str, Any], *code: Any, **parts: Any) -> BatchStore:
        """The store of one kind of result, whose content depends on `parts` and the source of `code`."""
        experiment = self.experiment
        manifest = {
            "kind": kind,
            "srdef": srdef.__version__,
            "dataset": self.dataset_digest,
            "classifier": experiment.config["classifier"],
            "seed": experiment.seed,
            **experiment.digests,
            "code": code_digest(
                experiment.classifier, batching, attacks.perturb, attacks.accuracy_over_draws, victims, *code
            ),
            **parts,
        }
        return BatchStore(
            self.folder / kind, label, manifest, fields, len(self.dataset), experiment.batch_size
        )

    @cached_property
    def dataset_digest(self) -> str:
        return self.dataset.digest()

    def shares(self, defense: str, images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The share of right draws for images of the data set's rows: to choose, and to judge."""
        experiment = self.experiment
        victim = Defended(experiment.classifier, experiment.defenses[defense].defense)
        draws = experiment.draws(defense)

        def share(purpose: int, draws: int) -> np.ndarray:
            return attacks.accuracy_over_draws(
                victim,
                images,
                self.dataset.labels[rows],
                key=experiment.key(purpose),
                ids=self.dataset.ids[rows],
                draws=draws,
                batch_size=experiment.batch_size,
            )

        if draws == 1:
            right = share(1, 1)
            return right, right
        return share(2, draws // 2), share(1, draws - draws // 2)

    def clean(self, defense: str) -> tuple[np.ndarray, np.ndarray]:
        """The shares without an attack `(images,)`."""
        protected = self.experiment.defenses[defense]
        store = self.store(
            "clean",
            defense,
            {"chosen": ((), np.float32), "judged": ((), np.float32)},
            protected.defense,
            defense=self.experiment.config["defenses"][defense],
            defense_digest=digest(protected.defense),
            draws=self.experiment.draws(defense),
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            numbers = np.arange(rows.start, rows.stop)
            chosen, judged = self.shares(defense, self.dataset.images[rows], numbers)
            return {"chosen": chosen, "judged": judged}

        self.reporter.complete(f"{defense}: {CLEAN}", store, compute)
        return store.read("chosen"), store.read("judged")

    def perturb(self, attack: attacks.Attack, victim: Victim, rows: np.ndarray) -> np.ndarray:
        """Attacked images of some rows of one batch; few rows go in a smaller batch."""
        return attacks.perturb(
            attack,
            victim,
            self.dataset.images[rows],
            self.dataset.labels[rows],
            key=self.experiment.key(0),
            ids=self.dataset.ids[rows],
            batch_size=attacks.batch.smaller_batch(self.experiment.batch_size, len(rows)),
        ).images

    def blind(self, label: str, epsilon: float) -> BatchStore:
        """Images attacked by a threat that does not look at the defense."""
        experiment = self.experiment
        threat = experiment.threats[label]
        attack = threat.make(epsilon)
        victim = experiment.victim(threat, next(iter(experiment.defenses)))
        assert victim is not None
        store = self.store(
            "attacked",
            f"{label}-{255 * epsilon:g}",
            {"images": (self.dataset.images.shape[1:], np.float32)},
            attack,
            threat=experiment.config["threats"][label],
            epsilon=epsilon,
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            return {"images": self.perturb(attack, victim, np.arange(rows.start, rows.stop))}

        self.reporter.complete(f"{label}, ε {255 * epsilon:g}/255", store, compute)
        return store

    def attacked(self, defense: str, label: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The shares under one threat `(images, epsilons)`, or None where it makes no sense."""
        experiment = self.experiment
        threat, protected = experiment.threats[label], experiment.defenses[defense]
        random = protected.defense.random
        victim = experiment.victim(threat, defense)
        if victim is None:
            return None
        count = len(experiment.epsilons)
        store = self.store(
            "shares",
            f"{defense}-{label}",
            {"chosen": ((count,), np.float32), "judged": ((count,), np.float32)},
            victim,
            protected.defense,
            threat.make(experiment.epsilons[0], random),
            threat=experiment.config["threats"][label],
            defense=experiment.config["defenses"][defense],
            victim_digest=digest(victim),
            defense_digest=digest(protected.defense),
            draws=experiment.draws(defense),
            epsilons=list(experiment.epsilons),
        )
        blind = threat.knows in BLIND
        wanted = [epsilon for epsilon in experiment.epsilons if threat.attacks_at(epsilon)]
        sources = {epsilon: self.blind(label, epsilon) for epsilon in wanted} if blind else {}
        before, _ = self.clean(defense)

        def compute(rows: slice) -> dict[str, np.ndarray]:
            numbers = np.arange(rows.start, rows.stop)
            chosen = np.zeros((len(numbers), count), np.float32)
            judged = chosen.copy()
            # What is broken stays broken: the same image lies in every larger ball. Not so where that is the
            # word of a few draws, and for attackers who do not look at the defense.
            standing = before[rows] > 0
            for e, epsilon in enumerate(experiment.epsilons):
                where = np.arange(len(numbers)) if blind or random else np.flatnonzero(standing)
                if not threat.attacks_at(epsilon):
                    chosen[:, e] = judged[:, e] = np.nan
                    continue
                if not len(where):
                    continue
                if blind:
                    images = sources[epsilon].read_rows("images", rows)
                else:
                    images = self.perturb(threat.make(epsilon, random), victim, numbers[where])
                chosen[where, e], judged[where, e] = self.shares(defense, images, numbers[where])
                standing = chosen[:, e] > 0
            return {"chosen": chosen, "judged": judged}

        self.reporter.complete(f"{defense}: {label}", store, compute)
        return store.read("chosen"), store.read("judged")


def run(experiment: AdaptiveExperiment, folder: Path, reporter: Reporter) -> Outcome:
    """Run every threat against every defense; compute only what `folder` does not hold yet.

    Raises
    ------
    InputError
        If the classifier has no image right, or the folder cannot be written.
    """
    dataset = experiment.dataset
    victim = Defended(experiment.classifier, defenses.Identity())
    right = attacks.accuracy_over_draws(
        victim, dataset.images, dataset.labels, key=experiment.key(1), batch_size=experiment.batch_size
    )
    if not right.any():
        raise InputError(f"the classifier has none of the {len(dataset)} images right")
    dataset = dataset.select(right > 0)
    experiment = replace(experiment, batch_size=min(experiment.batch_size, len(dataset)))
    runner = Runner(experiment, folder, reporter, dataset)

    chosen: dict[tuple[str, str], np.ndarray] = {}
    judged: dict[tuple[str, str], np.ndarray] = {}
    for defense in experiment.defenses:
        for threat in (CLEAN, *experiment.threats):
            if threat == CLEAN:
                pair = tuple(
                    np.repeat(s[:, None], len(experiment.epsilons), axis=1) for s in runner.clean(defense)
                )
            else:
                found = runner.attacked(defense, threat)
                if found is None:
                    continue
                pair = found
            chosen[defense, threat], judged[defense, threat] = pair
    return Outcome(
        len(dataset),
        experiment.epsilons,
        tuple(experiment.defenses),
        tuple(experiment.threats),
        chosen,
        judged,
    )
