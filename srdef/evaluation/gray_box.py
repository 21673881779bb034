"""The gray-box protocol of the paper: attack the classifier, defend the images, count.

Images that the classifier gets right are attacked without knowledge of any defense; then every
defense is applied to the same attacked images, and the classifier is asked again. Each step goes
through a `BatchStore`, so a run continues where it was stopped and repeats nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

import srdef
from srdef import attacks, batching, defenses, images, victims
from srdef.datasets import Dataset
from srdef.defenses.base import Defense, defend_batch
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.progress import Reporter
from srdef.evaluation.summaries import Strength
from srdef.models.protocols import Classifier
from srdef.storage.fingerprint import code_digest, digest
from srdef.storage.store import BatchStore

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
