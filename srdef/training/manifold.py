"""The manifold classifier of section 4.1: does an image look clean or adversarial?

A pre-trained classifier whose two highest blocks are trained further, with a tenth of the learning rate of
a new head: global average pooling, batch normalisation, dropout, a dense layer of 1024 and one of 1. All
below is frozen, its batch statistics too, so what it computes is computed once for each image and kept,
and only the top is run in training (there is no augmentation).

Data are pairs of a clean image and the same image under one attack that fools the classifier, from all
attacks of the configuration. All versions of an image are either trained on or tested with, never both.
Every image that the network sees is rounded to 8 bits, so that float32 noise gives nothing away.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from srdef import batching, defenses, images, models
from srdef.analysis import features
from srdef.datasets import Dataset
from srdef.errors import InputError
from srdef.evaluation import protocol
from srdef.evaluation.metrics import Rate, rate
from srdef.evaluation.protocol import CLEAN, Evaluation, Experiment, Reporter
from srdef.evaluation.store import BatchStore, canonical_json, code_digest, write_atomically
from srdef.training.export import read_metrics
from srdef.training.super_resolution import split_modes

SHARED = ("seed", "batch_size", "dataset", "classifier", "attacks", "defenses")

# Of `config.manifold`: what must be there, and of which type.
OPTIONS = {
    "test_share": float,
    "blocks": int,
    "hidden": int,
    "dropout": float,
    "learning_rate": float,
    "top_factor": float,
    "pairs_per_batch": int,
    "steps": int,
    "evaluate_every": int,
}

AS_THEY_ARE = "as they are"


class Top(nnx.Module):
    """The last blocks of a classifier, and the convolution after them where it has one."""

    def __init__(self, blocks: list[Any], head: Any = None, head_norm: Any = None) -> None:
        self.blocks = nnx.List(blocks)
        self.head = head
        self.head_norm = head_norm

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else nnx.relu6(self.head_norm(self.head(x)))


def cut(network: Any, blocks: int) -> tuple[str, Top]:
    """The name of the feature map below the last `blocks` blocks of a classifier, and what is above it.

    Raises
    ------
    InputError
        If the network is no EfficientNet-Lite or Inception-v3, or does not have that many blocks.
    """
    stack: list[Any]
    head: list[Any] = []
    if isinstance(network, models.efficientnet_lite.EfficientNetLite):
        stack, prefix, head = list(network.blocks), "block", [network.head, network.head_norm]
    elif isinstance(network, models.inception_v3.InceptionV3):
        stack, prefix = list(network.mixed), "mixed"
    else:
        raise InputError(
            f"manifold: the top of a {type(network).__name__} is not known; choose an efficientnet_lite or "
            "inception_v3"
        )
    if not 1 <= blocks < len(stack):
        raise InputError(f"manifold: blocks must be 1 to {len(stack) - 1}, not {blocks}")
    return f"{prefix}{len(stack) - blocks - 1}", Top(stack[-blocks:], *head)


class Detector(nnx.Module):
    """What is trained: feature maps `(N, h, w, C)` to logits `(N,)`, positive for adversarial.

    Parameters
    ----------
    top : Top
        Pre-trained.
    channels : int
        What comes out of `top`.
    hidden : int
        Width of the dense layer.
    dropout : float
        Share that is dropped in training.
    """

    def __init__(self, top: Top, channels: int, hidden: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.top = top
        self.norm = nnx.BatchNorm(channels, use_running_average=True, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.dense = nnx.Linear(channels, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, 1, rngs=rngs)

    def hidden(self, maps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The last hidden layer `(N, hidden)`; `key` for the dropout in train mode."""
        pooled = jnp.mean(self.top(maps), axis=(1, 2))
        return nnx.relu(self.dense(self.dropout(self.norm(pooled), rngs=key)))

    def __call__(self, maps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.output(self.hidden(maps, key))[:, 0]


class ManifoldClassifier(nnx.Module):
    """Images `(N, H, W, 3)` in [0, 1] to logits `(N,)`: the frozen network, then the detector."""

    def __init__(self, network: Any, options: dict[str, Any], *, rngs: nnx.Rngs) -> None:
        self.network = network
        self.endpoint, top = cut(network, options["blocks"])
        channels = network.classifier.in_features
        self.detector = Detector(top, channels, options["hidden"], options["dropout"], rngs=rngs)

    def frozen(self, pixels: jax.Array) -> jax.Array:
        """The feature map below the trained blocks."""
        return self.network.endpoints(pixels)[self.endpoint]

    def hidden(self, pixels: jax.Array) -> jax.Array:
        """The last hidden layer, as in Figure 1 of the paper."""
        return self.detector.hidden(self.frozen(pixels))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        return self.detector(self.frozen(pixels))


@jax.jit
def _logits(model: ManifoldClassifier, pixels: jax.Array) -> jax.Array:
    return model(pixels)


@jax.jit
def _hidden(model: ManifoldClassifier, pixels: jax.Array) -> jax.Array:
    return model.hidden(pixels)


@jax.jit
def _detect(detector: Detector, maps: jax.Array) -> jax.Array:
    return detector(maps)


def hidden_features(
    model: ManifoldClassifier, pixels: np.ndarray, *, batch_size: int | None = None
) -> np.ndarray:
    """The last hidden layer `(N, hidden)` of images `(N, H, W, 3)` in [0, 1]."""
    return batching.map_batches(_hidden, (model,), (pixels,), batch_size=batch_size)


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: the chance that a positive has a higher score than a negative.

    Ties count half (Mann and Whitney). nan if one of the two kinds is missing.
    """
    above = np.sort(scores[~positive])
    if not len(above) or positive.all() or not positive.any():
        return float("nan")
    low = np.searchsorted(above, scores[positive], side="left")
    high = np.searchsorted(above, scores[positive], side="right")
    return float((low + high).mean() / (2 * len(above)))


def split_by_image(count: int, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and of those to test with, both ascending; at least one each.

    Raises
    ------
    InputError
        If there are fewer than two images, or the share is not between 0 and 1.
    """
    if count < 2 or not 0 < test_share < 1:
        raise InputError(
            f"manifold: cannot split {count} images with a test_share of {test_share}; at least two images "
            "and a share between 0 and 1 are needed"
        )
    order = np.random.default_rng(seed).permutation(count)
    tested = min(max(round(test_share * count), 1), count - 1)
    return np.sort(order[tested:]), np.sort(order[:tested])


@dataclass(frozen=True)
class Pairs:
    """Feature maps of clean images and of their attacked versions.

    Attributes
    ----------
    clean : (N, h, w, C) float32
    attacked : (A, N, h, w, C) float32
    fooled : (A, N) bool
        Which attacked images fool the classifier: the pairs.
    """

    clean: np.ndarray
    attacked: np.ndarray
    fooled: np.ndarray

    def select(self, rows: np.ndarray) -> "Pairs":
        """The images at these positions."""
        return Pairs(self.clean[rows], self.attacked[:, rows], self.fooled[:, rows])

    def batch(self, index: int, size: int, seed: int) -> np.ndarray:
        """Batch number `index`: `(size, h, w, C)` clean, then as many attacked ones in the same order.

        A function of its arguments alone: every epoch is a permutation of all pairs.
        """
        attacks, rows = np.nonzero(self.fooled)
        places = np.arange(index * size, (index + 1) * size)
        chosen = np.empty(size, int)
        for epoch in np.unique(places // len(rows)):
            order = np.random.default_rng((seed, int(epoch))).permutation(len(rows))
            here = places // len(rows) == epoch
            chosen[here] = order[places[here] % len(rows)]
        return np.concatenate([self.clean[rows[chosen]], self.attacked[attacks[chosen], rows[chosen]]])


def labels_of_parameters(parameters: Any) -> Any:
    """For each parameter of a `Detector` whether it is of the pre-trained `top` or of the new `head`."""

    def label(path: tuple[Any, ...], _: Any) -> str:
        return "top" if getattr(path[0], "key", None) == "top" else "head"

    return jax.tree_util.tree_map_with_path(label, parameters)


def create_optimizer(learning_rate: float, top_factor: float) -> optax.GradientTransformation:
    """Adam, with `top_factor` times the learning rate for the pre-trained blocks.

    What lies below them is not among its parameters at all.
    """
    rates = {"top": optax.adam(learning_rate * top_factor), "head": optax.adam(learning_rate)}
    return optax.multi_transform(rates, labels_of_parameters)


def train(
    detector: Detector,
    training: Pairs,
    testing: Pairs,
    options: dict[str, Any],
    seed: int,
    workdir: Path,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Detector:
    """Train the detector on cached feature maps; the last weights are the result, none are selected.

    Leaves `metrics.jsonl` and `checkpoints/` in `workdir`; a run found there is continued.

    Raises
    ------
    InputError
        If there are no pairs, or the loss is not finite.
    """
    if not training.fooled.any() or not testing.fooled.any():
        raise InputError("manifold: no attacked image fools the classifier, so there are no pairs")
    # A batch cannot hold more pairs than there are.
    size = min(options["pairs_per_batch"], int(training.fooled.sum()))
    structure, evaluated, parameters, statistics = split_modes(detector)
    optimizer = create_optimizer(options["learning_rate"], options["top_factor"])
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": optimizer.init(parameters),
    }
    labels = jnp.repeat(jnp.array([0.0, 1.0]), size)

    # Nothing is donated: the first state is the classifier's own arrays, which it still needs.
    @jax.jit
    def step(state: dict[str, Any], maps: jax.Array, index: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), index)

        def loss_of(parameters: Any) -> tuple[jax.Array, Any]:
            network = nnx.merge(structure, parameters, state["statistics"], copy=True)
            loss = optax.sigmoid_binary_cross_entropy(network(maps, key), labels).mean()
            return loss, nnx.state(network, nnx.Not(nnx.Param))

        (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state["parameters"])
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["parameters"])
        parameters = optax.apply_updates(state["parameters"], updates)
        return {"parameters": parameters, "statistics": statistics, "optimizer": optimizer_state}, loss

    log = workdir / "metrics.jsonl"
    every = options["evaluate_every"]
    manager_options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=manager_options) as manager:
        first = manager.latest_step() or 0
        if first:
            state = manager.restore(first, args=ocp.args.StandardRestore(state))
        records = [r for r in read_metrics(log) if r["step"] <= first] if log.exists() else []
        losses = []
        for index in range(first, options["steps"]):
            state, loss = step(state, training.batch(index, size, seed), jnp.asarray(index))
            losses.append(loss)
            if (index + 1) % every and index + 1 < options["steps"]:
                continue
            loss = float(np.mean(losses))
            if not np.isfinite(loss):
                raise InputError(f"manifold: the loss is {loss} at step {index + 1}; lower learning_rate")
            current = nnx.merge(evaluated, state["parameters"], state["statistics"], copy=True)
            record = {"step": index + 1, "loss": loss}
            for name, pairs in (("train", training), ("test", testing)):
                record[f"{name}_accuracy"] = pair_accuracy(*scores(current, pairs, 4 * size), pairs.fooled)
            records.append(record)
            manager.save(index + 1, args=ocp.args.StandardSave(state))
            write_atomically(log, "".join(json.dumps(r) + "\n" for r in records))
            report(record)
            losses = []
        manager.wait_until_finished()
    return nnx.merge(evaluated, state["parameters"], state["statistics"])


def scores(detector: Detector, pairs: Pairs, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the clean `(N,)` and of the attacked images `(A, N)`."""
    maps = np.concatenate([pairs.clean[None], pairs.attacked])
    flat = maps.reshape(-1, *maps.shape[2:])
    logits = batching.map_batches(_detect, (detector,), (flat,), batch_size=batch_size)
    logits = logits.reshape(maps.shape[:2])
    return logits[0], logits[1:]


def pair_accuracy(clean: np.ndarray, attacked: np.ndarray, fooled: np.ndarray) -> float:
    """The share of right answers over all pairs, whose clean and attacked image count the same."""
    called_clean = np.broadcast_to(clean <= 0, fooled.shape)[fooled]
    return float((called_clean.mean() + (attacked > 0)[fooled].mean()) / 2)


def check(config: dict[str, Any]) -> dict[str, Any]:
    """The options of `config.manifold`.

    Raises
    ------
    InputError
        For fields that are unknown, missing or of another type, and attacks that are not kept in 8 bits.
    """
    for name in config:
        if name not in (*SHARED, "manifold"):
            known = ", ".join((*SHARED, "manifold"))
            raise InputError(f"unknown config field {name!r}; choose from: {known}")
    options = config.get("manifold")
    if not isinstance(options, dict) or set(options) != set(OPTIONS):
        raise InputError(f"config.manifold must have the fields {', '.join(OPTIONS)}")
    for name, kind in OPTIONS.items():
        value = options[name]
        if not isinstance(value, (int, float) if kind is float else int) or not value > 0:
            raise InputError(f"config.manifold.{name} must be a positive {kind.__name__}, not {value!r}")
    if options["dropout"] >= 1:
        raise InputError(f"config.manifold.dropout must be below 1, not {options['dropout']}")
    for label, attack in config.get("attacks", {}).items():
        if isinstance(attack, dict) and attack.get("storage") != "uint8":
            raise InputError(f"attack {label!r}: the manifold classifier needs storage 'uint8'")
    return options


def create(classifier: Any, options: dict[str, Any], seed: int) -> ManifoldClassifier:
    """The classifier with a new head; its top blocks are its own and will be trained."""
    return ManifoldClassifier(classifier, options, rngs=nnx.Rngs(seed))


def load(workdir: Path) -> ManifoldClassifier:
    """A trained manifold classifier from the folder of its run.

    Raises
    ------
    InputError
        If there is none.
    """
    file = workdir / "config.json"
    if not file.is_file() or not (workdir / "checkpoints").is_dir():
        raise InputError(f"no trained manifold classifier in {workdir}: run experiments.manifold")
    config = json.loads(file.read_text())
    specification = dict(config["classifier"])
    model = create(
        models.create(specification.pop("name"), **specification), config["manifold"], config["seed"]
    )
    _, evaluated, parameters, statistics = split_modes(model.detector)
    rates = config["manifold"]["learning_rate"], config["manifold"]["top_factor"]
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": create_optimizer(*rates).init(parameters),
    }
    with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as manager:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state))
    model.detector = nnx.merge(evaluated, state["parameters"], state["statistics"])
    return model


@dataclass(frozen=True)
class Work:
    """An evaluation together with the images that it is about: the clean-correct ones."""

    evaluation: Evaluation
    dataset: Dataset

    @property
    def experiment(self) -> Experiment:
        return self.evaluation.experiment

    def attacked(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """Images under an attack, `(N, H, W, 3)`, and which of them fool the classifier."""
        if attack == CLEAN:
            return self.dataset.images, np.ones(len(self.dataset), bool)
        store = self.evaluation.adversarial(attack, self.dataset)
        return images.from_uint8(store.read("images")), store.read("success").astype(bool)

    def features(self, attack: str, endpoint: str) -> tuple[np.ndarray, np.ndarray]:
        """Feature maps of the images under an attack, computed once and kept, and which ones fool."""
        pixels, fooled = self.attacked(attack)
        experiment = self.experiment
        shape = features.endpoint_shapes(experiment.classifier, pixels.shape[1:])[endpoint]
        store = BatchStore(
            self.evaluation.folder / "features",
            f"{attack}-{endpoint}",
            self.evaluation.manifest(
                "features",
                self.dataset,
                endpoint=endpoint,
                attack={} if attack == CLEAN else experiment.config["attacks"][attack],
                code=code_digest(experiment.classifier, experiment.attacks.get(attack), features),
            ),
            {"features": (shape, np.float32)},
            len(self.dataset),
            experiment.batch_size,
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            maps = features.feature_maps(
                experiment.classifier, pixels[rows], endpoint, batch_size=experiment.batch_size
            )
            return {"features": maps}

        self.evaluation.reporter.complete(f"features of {attack}", store, compute)
        return store.read("features"), fooled

    def defended_scores(
        self, model: ManifoldClassifier, attack: str, defense: str, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits of images under an attack and a defense, in 8 bits, and which ones fooled before."""
        experiment = self.experiment
        pixels, fooled = self.attacked(attack)
        with self.evaluation.reporter.step(f"{attack}: {defense}", len(rows), len(rows)) as advance:
            defended = defenses.apply(
                experiment.defenses[defense],
                pixels[rows],
                key=experiment.defense_key,
                ids=self.dataset.ids[rows],
                batch_size=experiment.batch_size,
            )
            rounded = images.from_uint8(images.to_uint8(defended))
            logits = batching.map_batches(
                _logits, (model,), (rounded,), batch_size=experiment.batch_size, progress=advance
            )
        return logits, fooled[rows]


@dataclass(frozen=True)
class Result:
    """What the detector says of the test images.

    Attributes
    ----------
    images, pairs : dict
        How many were trained on and tested with.
    accuracy, auc : float
        Over the pairs; the area under the ROC curve over clean and attacked test images.
    clean : Rate
        Clean images that are called clean.
    attacks : dict
        For each attack the `Rate` of images called adversarial, and its own area.
    called_clean : dict
        By defense (`AS_THEY_ARE` first) and attack (`CLEAN` first), the `Rate` called clean.
    """

    images: dict[str, int]
    pairs: dict[str, int]
    accuracy: float
    auc: float
    clean: Rate
    attacks: dict[str, tuple[Rate, float]]
    called_clean: dict[str, dict[str, Rate]]

    def to_json(self) -> str:
        """All numbers."""
        return canonical_json(
            {
                "images": self.images,
                "pairs": self.pairs,
                "pair_accuracy": self.accuracy,
                "roc_auc": self.auc,
                "clean_called_clean": self.clean._asdict(),
                "attacks": {
                    label: {"called_adversarial": found._asdict(), "roc_auc": area}
                    for label, (found, area) in self.attacks.items()
                },
                "called_clean": {
                    defense: {attack: found._asdict() for attack, found in row.items()}
                    for defense, row in self.called_clean.items()
                },
            }
        )

    def to_markdown(self) -> str:
        """How good the detector is, and how many defended images it calls clean."""
        labels = list(self.attacks)
        lines = [
            f"**Manifold classifier.** Trained on {self.pairs['train']} pairs of {self.images['train']} "
            f"images, tested with {self.pairs['test']} pairs of {self.images['test']} others: accuracy "
            f"{100 * self.accuracy:.1f} %, ROC-AUC {self.auc:.4f} (the paper: 99.6 % on its own data).",
            "",
            "| | " + " | ".join(labels) + " |",
            "|---" + "|---:" * len(labels) + "|",
            "| called adversarial (%) | " + " | ".join(_cell(self.attacks[a][0]) for a in labels) + " |",
            "| ROC-AUC | " + " | ".join(f"{self.attacks[a][1]:.3f}" for a in labels) + " |",
            "",
            "**Share called clean (%).**",
            "",
            "| | clean | all attacks | " + " | ".join(labels) + " |",
            "|---" + "|---:" * (len(labels) + 2) + "|",
        ]
        for defense, row in self.called_clean.items():
            found = [row[label] for label in labels]
            total = sum(cell.total for cell in found)
            share = 100 * sum(cell.successes for cell in found) / total if total else float("nan")
            cells = [_cell(row[CLEAN]), f"{share:.1f}", *(_cell(cell) for cell in found)]
            lines.append(f"| {defense} | " + " | ".join(cells) + " |")
        lines += [
            "",
            "In brackets 95 % Wilson intervals. Only attacked images that fool the classifier; all images "
            "in 8 bits. The column `clean` of a defense, and a row that only resizes, are the controls: a "
            "detector that answers to resampling moves there too. The paper: about 91 % of super-resolved "
            "adversarial images are called clean.",
        ]
        return "\n".join(lines) + "\n"


def _cell(found: Rate) -> str:
    if not found.total:
        return "–"
    return f"{100 * found.value:.1f} [{100 * found.low:.0f}–{100 * found.high:.0f}]"


def run(
    config: dict[str, Any],
    workdir: Path,
    reporter: Reporter,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Result:
    """Attack, compute features, train, test; what `workdir` already holds is not done again.

    Parameters
    ----------
    config : dict
        As in `configs/manifold.py`.
    workdir : Path
        Receives `store/`, `checkpoints/`, `metrics.jsonl` and `config.json`.
    reporter : Reporter
    report : callable
        Called with the record of each evaluation in training.

    Raises
    ------
    InputError
        For bad fields, a folder of another configuration, or data that give no pairs.
    """
    options = check(config)
    fields = {name: config[name] for name in SHARED if name in config}
    experiment = protocol.resolve({**fields, "gallery": {"attack": "", "images": 0}})
    model = create(experiment.classifier, options, experiment.seed)
    written, text = workdir / "config.json", canonical_json(config) + "\n"
    if written.exists() and written.read_text() != text:
        raise InputError(f"{workdir} holds a run of another configuration; choose another --workdir")
    write_atomically(written, text)

    evaluation = Evaluation(experiment, workdir / "store", reporter)
    dataset = experiment.dataset
    dataset = dataset.select(protocol.clean_predictions(evaluation) == dataset.labels)
    train_rows, test_rows = split_by_image(len(dataset), options["test_share"], experiment.seed)
    work = Work(evaluation, dataset)
    attacks = list(experiment.attacks)
    clean, _ = work.features(CLEAN, model.endpoint)
    maps, fooled = zip(*(work.features(attack, model.endpoint) for attack in attacks), strict=True)
    pairs = Pairs(clean, np.stack(maps), np.stack(fooled))
    training, testing = pairs.select(train_rows), pairs.select(test_rows)
    model.detector = train(model.detector, training, testing, options, experiment.seed, workdir, report)

    clean_logits, attacked_logits = scores(model.detector, testing, 4 * options["pairs_per_batch"])
    per_attack = {}
    called: dict[str, dict[str, Rate]] = {AS_THEY_ARE: {CLEAN: rate(clean_logits <= 0)}}
    for attack, logits, fools in zip(attacks, attacked_logits, testing.fooled, strict=True):
        both = np.concatenate([clean_logits, logits[fools]])
        area = roc_auc(both, np.arange(len(both)) >= len(clean_logits))
        per_attack[attack] = (rate(logits[fools] > 0), area)
        called[AS_THEY_ARE][attack] = rate(logits[fools] <= 0)
    for defense in experiment.defenses:
        called[defense] = {}
        for attack in (CLEAN, *attacks):
            logits, fools = work.defended_scores(model, attack, defense, test_rows)
            called[defense][attack] = rate(logits[fools] <= 0)
    every = np.concatenate([clean_logits, attacked_logits[testing.fooled]])
    return Result(
        images={"train": len(train_rows), "test": len(test_rows)},
        pairs={"train": int(training.fooled.sum()), "test": int(testing.fooled.sum())},
        accuracy=pair_accuracy(clean_logits, attacked_logits, testing.fooled),
        auc=roc_auc(every, np.arange(len(every)) >= len(clean_logits)),
        clean=rate(clean_logits <= 0),
        attacks=per_attack,
        called_clean=called,
    )
