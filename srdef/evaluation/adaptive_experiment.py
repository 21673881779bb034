"""The configuration of an adaptive evaluation, and everything that its names stand for."""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from srdef.attacks.arithmetic import check_arithmetic
from srdef.attacks.projections import Norm
from srdef.defenses.base import Defense, Identity
from srdef.errors import InputError, naming
from srdef.evaluation.experiment import (
    Experiment,
    check_batch_size,
    check_fields,
    check_whole,
    entry_of,
    load_dataset,
    make_classifier,
    make_defense,
    specification,
    split_entry,
    subsections,
)
from srdef.evaluation.patch_banks import refuse_own_patches
from srdef.evaluation.threats import Threat, make_threat, norm_of
from srdef.models.protocols import Classifier
from srdef.validation import check_count, check_epsilon
from srdef.victims import Defended, ExpectationOverTransformation, Undefended, Victim

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
class AdaptiveExperiment(Experiment):
    """A resolved configuration.

    Keys: attacks draw from `key(0)`, judging from `key(1)`, choosing the worst case from `key(2)`, and the
    self-checks from `key(3)`.

    Attributes
    ----------
    other : Classifier
        What an attacker has who does not know the classifier.
    surrogates : dict
        By defense, what replaces it on the way back if its own gradient is of no use.
    threats : dict of Threat
    epsilons : tuple of float
        Rising; in units of the [0, 1] range, measured in `norm`.
    norm : "linf", "l2" or "l1"
    final_draws : int
        How many draws judge a random defense.
    """

    other: Classifier
    surrogates: dict[str, Defense]
    threats: dict[str, Threat]
    epsilons: tuple[float, ...]
    norm: Norm
    final_draws: int

    def draws(self, defense: str) -> int:
        """How many draws judge a defense."""
        return self.final_draws if self.defenses[defense].random else 1

    def strongest_gradient(self, defense: str) -> Any:
        """The best gradient of a defense: its surrogate's, or its own, or None."""
        own = "exact" if self.defenses[defense].differentiable else None
        return self.surrogates.get(defense, own)

    def victim(self, threat: Threat, defense: str) -> Victim | None:
        """What the attacker sees and differentiates; None where the threat makes no sense."""
        if threat.knows == "classifier":
            return Undefended(self.classifier)
        if threat.knows == "other classifier":
            return Undefended(self.other)
        transformation, gradient = self.defenses[defense], self.strongest_gradient(defense)
        blunt = Defended(self.classifier, transformation, "identity")
        if threat.knows == "identity":
            return blunt
        if threat.knows == "scores":
            average = transformation.random and threat.draws > 1
            return ExpectationOverTransformation(blunt, threat.draws, "logits") if average else blunt
        best = blunt if gradient is None else Defended(self.classifier, transformation, gradient)
        if threat.knows == "expectation":
            return ExpectationOverTransformation(best, threat.draws) if transformation.random else None
        return None if gradient is None else best

    def twin(self, label: str, defense: str) -> str | None:
        """An earlier threat whose results are this one's: of no defense, the gradient is the identity's."""
        threat = self.threats[label]
        if not isinstance(self.defenses[defense], Identity) or threat.knows not in ("identity", "gradient"):
            return None
        alike = [replace(threat, knows="identity"), replace(threat, knows="gradient")]
        before = takewhile(lambda other: other != label, self.threats)
        return next((other for other in before if self.threats[other] in alike), None)


def resolve(config: dict[str, Any]) -> AdaptiveExperiment:
    """Make everything that `config` names (see `configs/adaptive.py`), before any work starts.

    Raises
    ------
    InputError
        For unknown or missing fields, names and options, or unreadable files.
    """
    check_fields(config, FIELDS, ("arithmetic",))
    check_arithmetic(config.get("arithmetic"))
    seed, batch_size = check_whole(config, "seed", 0), check_batch_size(config)
    # Some choose the worst case, others judge it.
    final_draws = check_whole(config, "final_draws", 2)
    epsilons = tuple(config["epsilons"])
    for epsilon in epsilons:
        check_epsilon(epsilon, "l2")
    if not epsilons or list(epsilons) != sorted(set(epsilons)) or epsilons[0] <= 0:
        raise InputError(f"config.epsilons must be positive and rising, not {list(epsilons)}")

    classifier, other = make_classifier(config), make_classifier(config, "other_classifier")
    columns = _chosen(config, "columns", "threats")
    threats = {label: make_threat(label, entry, epsilons) for label, entry in columns.items()}
    norm = norm_of(threats, epsilons[0])
    check_epsilon(epsilons[-1], norm)
    check_options(config, norm)
    chosen: dict[str, Defense] = {}
    surrogates: dict[str, Defense] = {}
    for label, entry in _chosen(config, "rows", "defenses").items():
        defense, beside = split_entry(entry, ("surrogate",))
        if isinstance(entry, dict) and "defense" in entry and not beside:
            raise InputError(f"defense {label!r} must have the fields defense and surrogate")
        refuse_own_patches(label, defense, specification(config, "dataset"))
        with naming(entry_of("defenses", label)):
            chosen[label] = make_defense(defense, classifier)
            if beside:
                surrogates[label] = make_defense(beside["surrogate"], classifier)
    dataset = load_dataset(config, classifier=classifier, other_classifier=other)
    return AdaptiveExperiment(
        config=config,
        dataset=dataset,
        classifier=classifier,
        attacks={},
        storage={},
        defenses=chosen,
        passes={},
        batch_size=min(batch_size, len(dataset)),
        seed=seed,
        other=other,
        surrogates=surrogates,
        threats=threats,
        epsilons=epsilons,
        norm=norm,
        final_draws=final_draws,
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


def check_options(config: dict[str, Any], norm: Norm = "linf") -> dict[str, Any]:
    """The options of the self-checks, `config.checks`; InputError if one is missing, unknown or bad."""
    found = config["checks"]
    if not isinstance(found, dict) or set(found) != set(CHECK_FIELDS):
        raise InputError(f"config.checks must have the fields {', '.join(CHECK_FIELDS)}, not {found!r}")
    for name in CHECK_FIELDS[1:]:
        check_count(f"config.checks.{name}", found[name])
    check_epsilon(found["epsilon"], norm)
    if found["effort"] < 2:
        raise InputError("config.checks.effort must be at least 2")
    if found["epsilon"] == 0:
        raise InputError("config.checks.epsilon must be above 0")
    return found
