"""An experiment: a configuration, and everything that its names stand for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from srdef import __version__, attacks, batching, datasets, defenses, images, keys, memory, models
from srdef.attacks.arithmetic import Arithmetic, check_arithmetic
from srdef.attacks.base import Attack
from srdef.attacks.batch import Storage
from srdef.datasets import Dataset
from srdef.defenses.base import Defense, check_defense
from srdef.errors import InputError, naming
from srdef.evaluation.paper_tables import Reference
from srdef.evaluation.patch_banks import refuse_own_patches
from srdef.evaluation.schema import AUTO
from srdef.models.protocols import Classifier
from srdef.storage.fingerprint import code_digest, digest
from srdef.victims import Undefended, check_victim

CLEAN = "clean"

FIELDS = ("seed", "batch_size", "dataset", "classifier", "attacks", "defenses")
OPTIONAL = ("paper", "gallery", "arithmetic")

# What an entry of `config.defenses` may say beside the defense.
BESIDE = ("passes", "paper")


@dataclass(frozen=True)
class Experiment:
    """A resolved configuration: everything that its names stand for has been made.

    Attributes
    ----------
    config : dict
        Plain data.
    dataset : Dataset
    classifier : Classifier
    attacks, storage : dict
        The attacks by label, and whether their images are stored as "float32" or "uint8".
    defenses, passes : dict
        The defenses by label, and over how many draws the answer to each is averaged.
    batch_size, seed : int
    """

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

    @property
    def arithmetic(self) -> Arithmetic:
        """What the steps of attacks are computed in; all else is computed in float32."""
        return self.config.get("arithmetic", "float32")

    @property
    def steps_in(self) -> dict[str, Any]:
        """What the manifest of attacked images says of the arithmetic: nothing for float32."""
        return {} if self.arithmetic == "float32" else {"arithmetic": self.arithmetic}

    @cached_property
    def classifier_digest(self) -> str:
        """The hash of the classifier's weights, which every store's manifest names."""
        return digest(self.classifier)

    def manifest(self, kind: str, code: tuple[Any, ...]) -> dict[str, Any]:
        """What every store of one kind of result depends on, beside the images, with the source of `code`."""
        name = self.config["classifier"]["name"]
        own = [models.REGISTRY.builder(name)] if ":" in name else []  # what a function of the user's has made
        return {
            "kind": kind,
            "srdef": __version__,  # the module itself would bring its rooms, loaded or not, into `code`
            "classifier": self.config["classifier"],
            "classifier_digest": self.classifier_digest,
            "seed": self.seed,
            "code": code_digest(self.classifier, batching, images, *code, *own),
        }

    def key(self, purpose: int) -> jax.Array:
        """A key for each purpose, so that no two of them draw the same."""
        return jax.random.fold_in(keys.of_seed(self.seed), purpose)

    @property
    def attack_key(self) -> jax.Array:
        """The key of the attacks."""
        return self.key(0)

    @property
    def defense_key(self) -> jax.Array:
        """The key of random defenses."""
        return self.key(1)


def check_fields(config: dict[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """InputError for a field of `config` that is unknown, or missing."""
    known = (*required, *optional)
    for name in config:
        if name not in known:
            raise InputError(f"unknown config field {name!r}; choose from: {', '.join(known)}")
    for name in required:
        if name not in config:
            raise InputError(f"config field {name!r} is missing")


def check_whole(config: dict[str, Any], field: str, smallest: int) -> int:
    """The whole number at `field`; InputError if it is none or below `smallest`."""
    value = config[field]
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise InputError(f"config.{field} must be a whole number of at least {smallest}, not {value!r}")
    return value


def check_batch_size(config: dict[str, Any]) -> int:
    """The whole number at `config.batch_size`; that of a CPU for "auto", until the run settles it.

    See `srdef.evaluation.batch_sizes`.
    """
    if config["batch_size"] == AUTO:
        return memory.CPU_BATCH
    return check_whole(config, "batch_size", 1)


def specification(config: dict[str, Any], field: str) -> dict[str, Any]:
    """A copy of the options at `field`, which has a `name`."""
    value = config[field]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InputError(f"config.{field} must be a dictionary with a `name`, not {value!r}")
    return dict(value)


def entry_of(field: str, label: str) -> str:
    """How messages call an entry of a configuration."""
    return f'config.{field}["{label}"]'


def subsections(config: dict[str, Any], field: str) -> dict[str, Any]:
    """The entries at `field` by label; at least one."""
    value = config[field]
    if not isinstance(value, dict) or not value:
        raise InputError(f"config.{field} must be a dictionary of at least one entry, not {value!r}")
    return value


def split_entry(entry: Any, beside: Sequence[str] = BESIDE) -> tuple[Any, dict[str, Any]]:
    """The defense of an entry of `config.defenses`, and what the entry says beside it.

    `{"name": "jpeg", "passes": 3}` and `{"defense": [...], "paper": "WD+SR"}`, where the defense is a list.
    """
    if not isinstance(entry, dict):
        return entry, {}
    options = {name: entry[name] for name in beside if name in entry}
    defense = {name: value for name, value in entry.items() if name not in options}
    return (defense["defense"] if set(defense) == {"defense"} else defense), options


def make_defense(specification: Any, classifier: Classifier | None = None) -> Defense:
    """A defense from plain data: `{"name": ..., **options}`, or a list of such, one after another.

    A defense that declares `needs_classifier` (pixel deflection) gets `classifier`.

    Raises
    ------
    InputError
        For an unknown name or option, or if the name leads to something that is no defense.
    """
    if isinstance(specification, (list, tuple)):
        return defenses.Sequential(tuple(make_defense(step, classifier) for step in specification))
    if not isinstance(specification, dict) or "name" not in specification:
        raise InputError(
            f"a defense must be a dictionary with a `name`, or a list of such, not {specification!r}"
        )
    options = dict(specification)
    name = options.pop("name")
    if getattr(defenses.REGISTRY.builder(name), "needs_classifier", False):
        options.setdefault("classifier", classifier)
    defense: Defense = defenses.create(name, **options)
    check_defense(defense)
    return defense


def make_classifier(config: dict[str, Any], field: str = "classifier") -> Classifier:
    """The classifier at `field`; InputError if it is another kind of network."""
    options = specification(config, field)
    name = options.pop("name")
    classifier = models.create(name, **options)
    if not hasattr(classifier, "num_classes"):
        raise InputError(f"model {name!r} is not a classifier")
    return classifier


def load_dataset(config: dict[str, Any], **classifiers: Classifier) -> Dataset:
    """The data set of `config`; InputError unless it has the classes of all `classifiers`, given by field."""
    options = specification(config, "dataset")
    dataset = datasets.load(options.pop("name"), keep=False, **options)
    for field, classifier in classifiers.items():
        # A network may know its classes only with the size of the images, or not take that size.
        classes = check_victim(Undefended(classifier), dataset.image_shape)
        with naming_num_classes(config, classes):
            dataset = dataset.of_model(classes, config["dataset"]["name"], config[field]["name"])
    return dataset


@contextmanager
def naming_num_classes(config: dict[str, Any], classes: int) -> Iterator[None]:
    """Say how a data set that can have another number of classes gets the model's `classes`."""
    try:
        yield
    except InputError as error:
        if not datasets.REGISTRY.takes(config["dataset"]["name"], "num_classes"):
            raise
        raise InputError(
            f"{error}; if they are the same classes: --config.dataset.num_classes={classes}"
        ) from None


def resolve(config: dict[str, Any]) -> Experiment:
    """Load and make everything that `config` names, so that bad input is found before work starts.

    Parameters
    ----------
    config : dict
        Plain data with the fields `FIELDS` (see `configs/quickstart.py`), and perhaps `paper`, the table
        of the paper whose numbers are shown beside ours (`{"table": 1, "classifier": "inception_v3"}`),
        `gallery`, which picture is drawn, and `arithmetic`, what the steps of attacks are computed in.

    Raises
    ------
    InputError
        For unknown or missing fields, names and options, or unreadable files.
    """
    check_fields(config, FIELDS, OPTIONAL)
    check_arithmetic(config.get("arithmetic"))
    seed, batch_size = check_whole(config, "seed", 0), check_batch_size(config)

    specified: dict[str, dict[str, Any]] = {}
    made: dict[str, Attack] = {}
    storage: dict[str, Storage] = {}
    for label in subsections(config, "attacks"):
        options = specification(config["attacks"], label)
        if label == CLEAN:
            raise InputError(f"config.attacks: {CLEAN!r} is always there; choose another label")
        options.pop("paper", None)
        storage[label] = options.pop("storage", "float32")
        if storage[label] not in ("float32", "uint8"):
            raise InputError(f"attack {label!r}: storage must be float32 or uint8, not {storage[label]!r}")
        specified[label] = options
        if not attacks.REGISTRY.takes(options["name"], "bank"):  # that needs the images
            with naming(entry_of("attacks", label)):
                made[label] = attacks.create(**options)
    classifier = make_classifier(config)
    passes: dict[str, int] = {}
    chosen: dict[str, Defense] = {}
    for label, entry in subsections(config, "defenses").items():
        defense, beside = split_entry(entry)
        passes[label] = beside.get("passes", 1)
        if not isinstance(passes[label], int) or passes[label] < 1:
            raise InputError(
                f"defense {label!r}: passes must be a whole number of at least 1, not {passes[label]!r}"
            )
        refuse_own_patches(label, defense, specification(config, "dataset"))
        with naming(entry_of("defenses", label)):
            chosen[label] = make_defense(defense, classifier)
    Reference.of(config)
    dataset = load_dataset(config, classifier=classifier)
    for label, options in specified.items():
        if label not in made:
            with naming(entry_of("attacks", label)):
                made[label] = attacks.create_for(dataset.pixels, **options)
    made = {label: made[label] for label in specified}  # in the order of the configuration
    return Experiment(
        config, dataset, classifier, made, storage, chosen, passes, min(batch_size, len(dataset)), seed
    )


def refuse_passes(experiment: Experiment) -> None:
    """InputError if answers for several draws of a defense are to be averaged where one draw is looked at."""
    for label, passes in experiment.passes.items():
        if passes > 1:
            raise InputError(
                f"{entry_of('defenses', label)}: passes={passes} is for srdef evaluate; here one draw of a "
                "defense is looked at"
            )
