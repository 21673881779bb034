"""Attackers of an adaptive evaluation: what each of them knows, and the attack that follows from it."""

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from srdef import attacks
from srdef.attacks.projections import Norm
from srdef.errors import InputError, naming
from srdef.evaluation.experiment import CLEAN, entry_of, specification
from srdef.validation import check_count

WORST = "worst case"

# Stands for the bank of an attack that is only checked.
_ANY_IMAGES = np.zeros((1, 1, 1, 3), np.float32)

Knowledge = Literal["classifier", "other classifier", "identity", "gradient", "expectation", "scores"]
"""What an attacker knows.

- "classifier": the classifier and not the defense (the paper's gray box).
- "other classifier": only another classifier (transfer).
- "identity": the defense, whose gradient it replaces by the identity (BPDA).
- "gradient": the defense and its gradient: its own, or that of the surrogate the configuration
  gives. Defenses with neither have no such column.
- "expectation": the same, averaged over draws (EOT), with the identity's gradient where there is no
  other; random defenses only.
- "scores": the logits of classifier and defense together, no gradient; of a random defense the mean over
  draws, each of which counts as a query.
"""

# Attackers who do not look at the defense: one adversarial image serves all defenses.
BLIND = ("classifier", "other classifier")
# Those who average a random defense over several draws.
AVERAGING = ("expectation", "scores")


@dataclass(frozen=True)
class Threat:
    """One attacker.

    Attributes
    ----------
    knows : Knowledge
    attack : dict
        Name and options of a registered attack with an ε, which is not among them.
    draws : int
        For "expectation" and "scores": how many draws of a random defense are averaged in each step.
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

    def make(self, epsilon: float, random: bool = False, images: Any = _ANY_IMAGES) -> attacks.Attack:
        """Make the attack with this ε, for a random or a deterministic victim.

        `images` are those that will be attacked, for an attack that mixes others into each.
        """
        attack = attacks.create_for(images, **self.attack, epsilon=epsilon)
        return attacks.without_early_stop(attack) if random else attack


def make_threat(label: str, entry: Any, epsilons: tuple[float, ...]) -> Threat:
    """The threat that an entry of `config.threats` describes.

    Raises
    ------
    InputError
        For unknown or missing fields, knowledge, attacks and options, or an ε that is none of `epsilons`.
    """
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
    if "draws" in entry and entry["knows"] not in AVERAGING:
        raise InputError(f"threat {label!r}: draws are for attackers who know {' or '.join(AVERAGING)}")
    check_count(f"threat {label!r}: draws", entry.get("draws", 1))
    threat = Threat(entry["knows"], specification(entry, "attack"), entry.get("draws", 1), own)
    with naming(f"{entry_of('threats', label)}.attack"):
        threat.make(epsilons[0])
    return threat


def norm_of(threats: dict[str, Threat], epsilon: float) -> Norm:
    """The norm of all the attacks.

    Raises
    ------
    InputError
        If they have several, so that their ε cannot be compared.
    """
    # Attacks in L0 have no ε.
    norms = {label: cast(Norm, threat.make(epsilon).norm) for label, threat in threats.items()}
    if len(set(norms.values())) > 1:
        found = ", ".join(f"{label} {norm}" for label, norm in norms.items())
        raise InputError(f"config.threats must have attacks of one norm, not of several: {found}")
    return next(iter(norms.values()))


def write_epsilon(epsilon: float, norm: Norm) -> str:
    """ε as it is written: in L∞ in levels of 255, else in units of the [0, 1] range."""
    return f"{255 * epsilon:g}/255" if norm == "linf" else f"{epsilon:g}"
