"""The gray-box protocol of the paper: attack the classifier, defend the images, count.

Images that the classifier gets right are attacked without knowledge of any defense; then every
defense is applied to the same attacked images, and the classifier is asked again. Each step goes
through a `BatchStore`, so a run continues where it was stopped and repeats nothing.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import srdef
from srdef import attacks, batching, datasets, defenses, images, models, victims
from srdef.attacks.base import Attack
from srdef.attacks.batch import Storage
from srdef.datasets import Dataset
from srdef.defenses.base import Defense, defend_batch
from srdef.errors import InputError
from srdef.evaluation.paper import Reference
from srdef.evaluation.source import code_digest
from srdef.evaluation.store import BatchStore, digest
from srdef.evaluation.strength import Strength
from srdef.models.protocols import Classifier

CLEAN = "clean"

FIELDS = ("seed", "dataset", "classifier", "attacks", "defenses", "batch_size", "gallery")
OPTIONAL = ("paper",)

RECORDS = pa.schema(
    [
        ("image", pa.string()),
        ("image_id", pa.int32()),
        ("label", pa.int32()),
        ("classifier", pa.string()),
        ("attack", pa.string()),
        ("defense", pa.string()),
        ("prediction", pa.int32()),
        ("confidence", pa.float32()),
        ("correct", pa.bool_()),
        ("clean_correct", pa.bool_()),
        ("fooled", pa.bool_()),
        ("linf", pa.float32()),
        ("l2", pa.float32()),
        ("storage", pa.string()),
    ]
)


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


@partial(jax.jit, static_argnames="passes")
def _predict(
    classifier: Classifier,
    defense: Defense,
    key: jax.Array,
    batch: jax.Array,
    ids: jax.Array,
    *,
    passes: int,
) -> dict[str, jax.Array]:
    """What the classifier says of the defended images, on average over `passes` draws."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)

    def probabilities(index: jax.Array) -> jax.Array:
        draws = jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)
        return jax.nn.softmax(classifier(defend_batch(defense, batch, draws)))

    if passes == 1:  # without the loop, in which XLA's CPU back end is slower
        average = probabilities(jnp.int32(0))
    else:  # one after the other, so that memory does not grow with their number
        average = jax.lax.map(probabilities, jnp.arange(passes)).mean(axis=0)
    return {"prediction": jnp.argmax(average, axis=-1).astype(jnp.int32), "confidence": average.max(axis=-1)}


def classify(
    experiment: Experiment,
    defense: Defense,
    batch: np.ndarray,
    ids: np.ndarray,
    batch_size: int | None = None,
    passes: int = 1,
) -> dict[str, np.ndarray]:
    """Prediction and confidence (largest probability) of the classifier on defended images.

    A random defense may be applied `passes` times with other draws; the probabilities are averaged.
    """
    return batching.map_batches(
        partial(_predict, passes=passes),
        (experiment.classifier, defense, experiment.defense_key),
        (batch, ids.astype(np.uint32)),
        batch_size=batch_size,
    )


def predict(classifier: Classifier, pixels: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """The undefended classifier's answers `(N,)` to images `(N, H, W, 3)`."""
    ids = np.zeros(len(pixels), np.uint32)
    state = (classifier, defenses.Identity(), jax.random.key(0))  # which draws nothing
    found = batching.map_batches(partial(_predict, passes=1), state, (pixels, ids), batch_size=batch_size)
    return found["prediction"]


def labelled(dataset: Dataset, predicted: np.ndarray, classifier: str) -> tuple[Dataset, np.ndarray]:
    """The data set with a label for every image, and which images are right.

    Parameters
    ----------
    dataset : Dataset
        Where its label is -1, the prediction becomes the label.
    predicted : integer array (N,)
        What the undefended classifier says of the clean images.
    classifier : str
        Its name, for the message.

    Returns
    -------
    dataset : Dataset
    right : (N,) bool

    Raises
    ------
    InputError
        If no image is right.
    """
    labels = np.where(dataset.labels < 0, predicted, dataset.labels).astype(np.int32)
    right = predicted == labels
    if not right.any():
        raise InputError(
            f"{classifier} has none of the {len(dataset)} images right: are the labels those of its classes?"
        )
    return replace(dataset, labels=labels), right


@jax.jit
def _first_pass(defense: Defense, key: jax.Array, batch: jax.Array, ids: jax.Array) -> jax.Array:
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), 0))(ids)
    return defend_batch(defense, batch, keys)


def defended_images(
    experiment: Experiment,
    defense: Defense,
    batch: np.ndarray,
    ids: np.ndarray,
    batch_size: int | None = None,
) -> np.ndarray:
    """The defended images that `classify` asks the classifier about, in its first pass."""
    return batching.map_batches(
        _first_pass,
        (defense, experiment.defense_key),
        (batch, ids.astype(np.uint32)),
        batch_size=batch_size,
    )


@dataclass
class Reporter:
    """Shows what runs: bars in a terminal, and one line for each finished step everywhere."""

    console: Console
    computed: int = field(default=0)

    @contextmanager
    def step(self, title: str, total: int, left: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of one step with `left` of `total` images still to do."""
        self.computed += left
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        started = time.monotonic()
        hidden = not (left and self.console.is_terminal)
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(f"{title:<28}", total=total, completed=total - left)
            yield lambda count: progress.advance(task, count)
        if left:
            self.console.print(
                f"{title:<28} {left:4d} images {time.monotonic() - started:7.1f} s", highlight=False
            )

    def complete(
        self, title: str, store: BatchStore, compute: Callable[[slice], dict[str, np.ndarray]]
    ) -> None:
        """Compute and write the batches that `store` does not hold yet."""
        missing = store.missing()
        left = sum(rows.stop - rows.start for rows in missing)
        with self.step(title, store.count, left) as advance:
            for rows in missing:
                store.write(rows, **compute(rows))
                advance(rows.stop - rows.start)


# What is kept of every attacked image beside the image.
MEASURES: dict[str, tuple[tuple[int, ...], Any]] = {
    "success": ((), np.uint8),
    "linf": ((), np.float32),
    "l2": ((), np.float32),
}


def _measures(result: attacks.AttackResult) -> dict[str, np.ndarray]:
    return {"success": result.success.astype(np.uint8), "linf": result.linf, "l2": result.l2}


_DIGESTS: WeakKeyDictionary[Dataset, str] = WeakKeyDictionary()


def dataset_digest(dataset: Dataset) -> str:
    """`dataset.digest()`, computed once: every store asks for it, and it reads all pixels."""
    if dataset not in _DIGESTS:
        _DIGESTS[dataset] = dataset.digest()
    return _DIGESTS[dataset]


@dataclass(frozen=True)
class Evaluation:
    """An experiment and the folder of what has been computed of it."""

    experiment: Experiment
    folder: Path
    reporter: Reporter

    def manifest(self, kind: str, dataset: Dataset, **specifications: Any) -> dict[str, Any]:
        """All that a store of this experiment depends on, as plain data."""
        experiment = self.experiment
        return {
            "kind": kind,
            "srdef": srdef.__version__,
            "dataset": dataset_digest(dataset),
            "classifier": experiment.config["classifier"],
            "classifier_digest": experiment.classifier_digest,
            "seed": experiment.seed,
            **specifications,
        }

    def predictions(
        self,
        attack: str,
        defense: str,
        dataset: Dataset,
        source: str,
        read: Callable[[slice], np.ndarray],
    ) -> dict[str, np.ndarray]:
        """What the classifier says of the images `read(rows)`, defended by `defense`.

        `source` identifies the images: the digest of the data, or the name of their store.
        """
        experiment = self.experiment
        transformation = experiment.defenses[defense]
        store = BatchStore(
            self.folder / "predictions",
            f"{attack}-{defense}",
            self.manifest(
                "predictions",
                dataset,
                source=source,
                defense=experiment.config["defenses"][defense],
                defense_digest=digest(transformation),
                code=code_digest(experiment.classifier, transformation, images, batching),
            ),
            {"prediction": ((), np.int32), "confidence": ((), np.float32)},
            len(dataset),
            experiment.batch_size,
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            ids, passes = dataset.ids[rows], experiment.passes[defense]
            return classify(experiment, transformation, read(rows), ids, experiment.batch_size, passes)

        self.reporter.complete(f"{attack}: {defense}", store, compute)
        return {name: store.read(name) for name in ("prediction", "confidence")}

    def adversarial(self, label: str, dataset: Dataset) -> BatchStore:
        """The images of `dataset` under the attack `label`."""
        experiment = self.experiment
        attack, storage = experiment.attacks[label], experiment.storage[label]
        victim = victims.Undefended(experiment.classifier)
        store = BatchStore(
            self.folder / "adversarial",
            label,
            self.manifest(
                "adversarial",
                dataset,
                attack=experiment.config["attacks"][label],
                attack_digest=digest(attack),
                storage=storage,
                code=code_digest(victim, attack, attacks.batch, batching),
            ),
            {
                "images": (dataset.images.shape[1:], np.dtype(storage)),
                **MEASURES,
            },
            len(dataset),
            experiment.batch_size,
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            result = attacks.perturb(
                attack,
                victim,
                dataset.images[rows],
                dataset.labels[rows],
                key=experiment.attack_key,
                ids=dataset.ids[rows],
                batch_size=experiment.batch_size,
                storage=storage,
            )
            stored = images.to_uint8(result.images) if storage == "uint8" else result.images
            return {"images": stored, **_measures(result)}

        self.reporter.complete(f"attack {label}", store, compute)
        return store

    def rounded(self, label: str, dataset: Dataset, attacked: BatchStore) -> BatchStore:
        """Success and distances of the float32 images in `attacked`, had they been saved in 8 bits.

        Minimal-norm attacks lie far below one level, so that rounding alone would undo them: see
        `attacks.round_result`.
        """
        experiment = self.experiment
        attack = experiment.attacks[label]
        victim = victims.Undefended(experiment.classifier)
        store = BatchStore(
            self.folder / "rounded",
            label,
            {"kind": "rounded", "source": attacked.path.name},
            MEASURES,
            len(dataset),
            experiment.batch_size,
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            result = attacks.round_result(
                attack,
                victim,
                dataset.images[rows],
                read_images(attacked, rows),
                dataset.labels[rows],
                key=experiment.attack_key,
                ids=dataset.ids[rows],
                batch_size=experiment.batch_size,
            )
            return _measures(result)

        self.reporter.complete(f"round {label}", store, compute)
        return store


def read_images(store: BatchStore, rows: slice) -> np.ndarray:
    """Attacked images of one batch, as float32 in [0, 1]."""
    stored = store.read_rows("images", rows)
    return images.from_uint8(stored) if stored.dtype == np.uint8 else stored


@dataclass(frozen=True)
class Outcome:
    """What `run` leaves.

    Attributes
    ----------
    records : pyarrow.Table
        One row per (image, attack, defense), with the columns of `RECORDS`.
    dataset : Dataset
        With the labels that were used.
    clean_correct : (N,) bool
    adversarial : dict
        Where the attacked images are, by attack.
    strengths : list of Strength
        Success and distances of each attack, as stored; in 8 bits too if stored as float32.
    """

    records: pa.Table
    dataset: Dataset
    clean_correct: np.ndarray
    adversarial: dict[str, BatchStore]
    strengths: list[Strength]


def clean_predictions(evaluation: Evaluation) -> np.ndarray:
    """The undefended classifier's predictions on the clean images."""
    experiment = evaluation.experiment
    for label, defense in experiment.defenses.items():
        if isinstance(defense, defenses.Identity) and experiment.passes[label] == 1:
            return _clean(evaluation, label)
    plain = replace(experiment, defenses={"none": defenses.Identity()}, passes={"none": 1})
    config = {**experiment.config, "defenses": {"none": {"name": "identity"}}}
    return _clean(replace(evaluation, experiment=replace(plain, config=config)), "none")


def _clean(evaluation: Evaluation, defense: str) -> np.ndarray:
    dataset = evaluation.experiment.dataset
    images_of = dataset.images.__getitem__
    return evaluation.predictions(CLEAN, defense, dataset, dataset_digest(dataset), images_of)["prediction"]


def run(experiment: Experiment, folder: Path, reporter: Reporter) -> Outcome:
    """Attack, defend and classify; compute only what `folder` does not hold yet.

    Returns
    -------
    Outcome
        Its records have one row per (image, attack, defense): for the clean images all of them,
        for each attack those that the undefended classifier has right when they are clean.

    Raises
    ------
    InputError
        If the classifier has no image right, or the folder cannot be written.
    """
    evaluation = Evaluation(experiment, folder, reporter)
    predicted = clean_predictions(evaluation)
    dataset, clean_correct = labelled(experiment.dataset, predicted, experiment.classifier_name)
    correct = dataset.select(clean_correct)

    tables = []
    for defense in experiment.defenses:
        result = evaluation.predictions(
            CLEAN, defense, dataset, dataset_digest(dataset), dataset.images.__getitem__
        )
        zeros = np.zeros(len(dataset), np.float32)
        tables.append(
            _records(experiment, dataset, clean_correct, CLEAN, defense, result, ~clean_correct, zeros, zeros)
        )
    adversarial = {}
    strengths = []
    for attack in experiment.attacks:
        store = evaluation.adversarial(attack, correct)
        adversarial[attack] = store
        success = store.read("success").astype(bool)
        linf, l2 = store.read("linf"), store.read("l2")
        strengths.append(Strength.of(attack, experiment.storage[attack], success, linf, l2))
        if experiment.storage[attack] == "float32":
            saved = evaluation.rounded(attack, correct, store)
            measured = saved.read("success").astype(bool), saved.read("linf"), saved.read("l2")
            strengths.append(Strength.of(attack, "uint8", *measured))
        everyone = np.ones(len(correct), bool)
        for defense in experiment.defenses:
            result = evaluation.predictions(
                attack, defense, correct, store.path.name, partial(read_images, store)
            )
            tables.append(_records(experiment, correct, everyone, attack, defense, result, success, linf, l2))
    return Outcome(pa.concat_tables(tables), dataset, clean_correct, adversarial, strengths)


def _records(
    experiment: Experiment,
    dataset: Dataset,
    clean_correct: np.ndarray,
    attack: str,
    defense: str,
    result: dict[str, np.ndarray],
    fooled: np.ndarray,
    linf: np.ndarray,
    l2: np.ndarray,
) -> pa.Table:
    """The rows of one (attack, defense)."""
    count = len(dataset)
    columns = {
        "image": list(dataset.names),
        "image_id": dataset.ids,
        "label": dataset.labels,
        "classifier": [experiment.classifier_name] * count,
        "attack": [attack] * count,
        "defense": [defense] * count,
        "prediction": result["prediction"],
        "confidence": result["confidence"],
        "correct": result["prediction"] == dataset.labels,
        "clean_correct": clean_correct,
        "fooled": fooled,
        "linf": linf,
        "l2": l2,
        "storage": [experiment.storage.get(attack, "uint8")] * count,
    }
    return pa.table(columns, schema=RECORDS)
