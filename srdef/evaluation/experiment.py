"""An experiment: a configuration, and everything that its names stand for."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from srdef import attacks, datasets, defenses, models
from srdef.attacks.base import Attack
from srdef.attacks.batch import Storage
from srdef.datasets import Dataset
from srdef.defenses.base import Defense
from srdef.errors import InputError
from srdef.evaluation.paper_tables import Reference
from srdef.models.protocols import Classifier
from srdef.storage.fingerprint import digest

CLEAN = "clean"


FIELDS = ("seed", "dataset", "classifier", "attacks", "defenses", "batch_size", "gallery")


OPTIONAL = ("paper",)


@dataclass(frozen=True)
class Experiment:
    """A configuration, resolved: everything that its names stand for has been made."""

    config: dict[str, Any]
    dataset: Dataset
    classifier: Classifier
    attacks: dict[str, Attack]
    storage: dict[str, Storage]
    defenses: dict[str, Defense]
    passes: dict[str, int]
    batch_size: int
    seed: int

    @property
    def classifier_name(self) -> str:
        """The registered name, for records and tables."""
        return self.config["classifier"]["name"]

    @cached_property
    def classifier_digest(self) -> str:
        """The hash of the classifier's weights, which every store's manifest names."""
        return digest(self.classifier)

    @property
    def attack_key(self) -> jax.Array:
        """What the attacks draw from; apart from what the defenses draw from."""
        return jax.random.fold_in(jax.random.key(self.seed), 0)

    @property
    def defense_key(self) -> jax.Array:
        """What random defenses draw from."""
        return jax.random.fold_in(jax.random.key(self.seed), 1)


def check_fields(config: dict[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """InputError for a field of `config` that is unknown, or missing."""
    known = (*required, *optional)
    for name in config:
        if name not in known:
            raise InputError(f"unknown config field {name!r}; choose from: {', '.join(known)}")
    for name in required:
        if name not in config:
            raise InputError(f"config field {name!r} is missing")


def specification(config: dict[str, Any], field: str) -> dict[str, Any]:
    """The options at `field`, split off their name."""
    value = config[field]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InputError(f"config.{field} must be a dictionary with a `name`, not {value!r}")
    return dict(value)


def subsections(config: dict[str, Any], field: str) -> dict[str, Any]:
    """What stands under `field` by label; at least one entry."""
    value = config[field]
    if not isinstance(value, dict) or not value:
        raise InputError(f"config.{field} must be a dictionary of at least one entry, not {value!r}")
    return value


def make_defense(specification: Any, classifier: Classifier | None = None) -> Defense:
    """A defense from plain data: `{"name": ..., **options}`, or a list of such, one after another.

    A defense that looks at the classifier (pixel deflection's activation map) gets `classifier`.

    Raises
    ------
    InputError
        For an unknown name or option.
    """
    if isinstance(specification, (list, tuple)):
        return defenses.Sequential(tuple(make_defense(step, classifier) for step in specification))
    if not isinstance(specification, dict) or "name" not in specification:
        raise InputError(
            f"a defense must be a dictionary with a `name`, or a list of such, not {specification!r}"
        )
    options = dict(specification)
    name = options.pop("name")
    if "classifier" in inspect.signature(defenses.REGISTRY.builder(name)).parameters:
        options.setdefault("classifier", classifier)
    return defenses.create(name, **options)


def _passes(label: str, specification: Any) -> tuple[int, Any]:
    """How many draws of a random defense are averaged, and the specification without that."""
    if not isinstance(specification, dict) or "passes" not in specification:
        return 1, specification
    options = dict(specification)
    passes = options.pop("passes")
    if not isinstance(passes, int) or passes < 1:
        raise InputError(f"defense {label!r}: passes must be a whole number of at least 1, not {passes!r}")
    return passes, options


def refuse_own_patches(label: str, specification: Any, dataset: dict[str, Any]) -> None:
    """InputError if a patch bank is made of images that are evaluated: it would hold their clean patches."""

    def rows(source: dict[str, Any]) -> tuple[int, float]:
        first, limit, stride = source.get("offset", 0), source.get("limit"), source.get("stride", 1)
        return stride * first, float("inf") if limit is None else stride * (first + limit)

    for step in specification if isinstance(specification, list) else [specification]:
        bank = step.get("bank") if isinstance(step, dict) else None
        source = bank.get("dataset") if isinstance(bank, dict) else None
        if not isinstance(source, dict) or any(source.get(f) != dataset.get(f) for f in ("name", "path")):
            continue
        (first, end), (other_first, other_end) = rows(source), rows(dataset)
        if max(first, other_first) < min(end, other_end):
            raise InputError(
                f"defense {label!r}: its patch bank would be made of the images that are evaluated, and the "
                "nearest patch of an attacked image its own clean one; take another data set, offset or limit"
            )


def resolve(config: dict[str, Any]) -> Experiment:
    """Load and make everything that `config` names, so that bad input is found before work starts.

    Parameters
    ----------
    config : dict
        Plain data with the fields `FIELDS` (see `configs/quickstart.py`), and perhaps `paper`: the table
        whose numbers are to stand beside ours (`{"table": 1, "classifier": "inception_v3"}`).

    Raises
    ------
    InputError
        For unknown or missing fields, names and options, or unreadable files.
    """
    check_fields(config, FIELDS, OPTIONAL)
    seed, batch_size = config["seed"], config["batch_size"]
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"config.seed must be a whole number of at least 0, not {seed!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"config.batch_size must be a whole number of at least 1, not {batch_size!r}")

    if "paper" in config:
        Reference.of(config["paper"])

    made: dict[str, Attack] = {}
    storage: dict[str, Storage] = {}
    for label in subsections(config, "attacks"):
        options = specification(config["attacks"], label)
        if label == CLEAN:
            raise InputError(f"config.attacks: {CLEAN!r} is always there; choose another label")
        storage[label] = options.pop("storage", "float32")
        if storage[label] not in ("float32", "uint8"):
            raise InputError(f"attack {label!r}: storage must be float32 or uint8, not {storage[label]!r}")
        made[label] = attacks.create(options.pop("name"), **options)
    options = specification(config, "classifier")
    classifier = models.create(options.pop("name"), **options)
    if not hasattr(classifier, "num_classes"):
        raise InputError(f"model {config['classifier']['name']!r} is not a classifier")
    passes: dict[str, int] = {}
    standing: dict[str, Defense] = {}
    for label, entry in subsections(config, "defenses").items():
        passes[label], entry = _passes(label, entry)
        refuse_own_patches(label, entry, specification(config, "dataset"))
        standing[label] = make_defense(entry, classifier)
    options = specification(config, "dataset")
    dataset = datasets.load(options.pop("name"), **options)
    if dataset.num_classes != classifier.num_classes:
        raise InputError(
            f"data set {config['dataset']['name']!r} has {dataset.num_classes} classes, model "
            f"{config['classifier']['name']!r} has {classifier.num_classes}"
        )
    return Experiment(
        config, dataset, classifier, made, storage, standing, passes, min(batch_size, len(dataset)), seed
    )
