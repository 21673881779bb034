"""Training the manifold classifier of section 4.1: does an image look clean or adversarial?

The highest blocks of a pre-trained classifier are trained further, with a tenth of the learning rate of
a new head. All below is frozen, so what it computes is computed once for each image and kept, and only the
top is run in training (there is no augmentation).
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from srdef import batching, interrupts, models
from srdef.detection.network import Detector, ManifoldClassifier
from srdef.detection.pairs import Pairs, pair_accuracy
from srdef.errors import InputError
from srdef.evaluation.plain_data import other_than
from srdef.evaluation.progress import Reporter
from srdef.keys import of_seed
from srdef.programs import jit
from srdef.storage.files import canonical_json, for_json, write_atomically
from srdef.storage.fingerprint import code_digest, digest
from srdef.training.ahead import StepsAhead
from srdef.training.checkpoints import Checkpoints
from srdef.training.export import read_metrics
from srdef.training.super_resolution import split_modes


@jit
def _detect(detector: Detector, maps: jax.Array) -> jax.Array:
    return detector(maps)


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


def fingerprint(
    detector: Detector, training: Pairs, testing: Pairs, options: dict[str, Any], seed: int
) -> dict[str, str]:
    """What the course of a training depends on, by name; not how many steps it goes on."""
    pairs = [array for part in (training, testing) for array in (part.origin or part.maps, part.fooled)]
    return {
        "images": digest(pairs),
        "weights": digest(detector),
        "options": _course(options, seed),
        "code": code_digest(train),
    }


def _course(options: dict[str, Any], seed: int) -> str:
    course = {name: value for name, value in options.items() if name != "steps"}
    return canonical_json({**course, "seed": seed})


def refuse_another(workdir: Path, wanted: dict[str, str]) -> None:
    """InputError unless the checkpoints in `workdir` are of the training with the fingerprint `wanted`."""
    try:
        kept = dict(json.loads((workdir / "training.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        kept = {}
    other = [name for name in wanted if kept.get(name) != wanted[name]]
    if other:
        raise InputError(
            f"the checkpoints in {workdir} are of a training with other {', '.join(other)}: delete "
            "checkpoints/ there to train again, or choose another --workdir"
        )


# Trainings of the same network share one program, whatever pairs they have.
@lru_cache(maxsize=16)
def _stepper(structure: Any, rates: tuple[float, float], seed: int) -> Callable[..., Any]:
    """A compiled step of the training of a detector with this structure."""
    optimizer = create_optimizer(*rates)

    # Nothing is donated: the first state is the classifier's own arrays, which it still needs.
    @jit
    def step(
        state: dict[str, Any], maps: jax.Array, versions: jax.Array, rows: jax.Array, index: jax.Array
    ) -> tuple[dict[str, Any], jax.Array]:
        key = jax.random.fold_in(of_seed(seed), index)
        batch, labels = maps[versions, rows], (versions > 0).astype(jnp.float32)

        def loss_of(parameters: Any) -> tuple[jax.Array, Any]:
            network = nnx.merge(structure, parameters, state["statistics"], copy=True)
            loss = optax.sigmoid_binary_cross_entropy(network(batch, key), labels).mean()
            return loss, nnx.state(network, nnx.Not(nnx.Param))

        (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state["parameters"])
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["parameters"])
        parameters = optax.apply_updates(state["parameters"], updates)
        return {"parameters": parameters, "statistics": statistics, "optimizer": optimizer_state}, loss

    return step


def train(
    detector: Detector,
    training: Pairs,
    testing: Pairs,
    options: dict[str, Any],
    seed: int,
    workdir: Path,
    reporter: Reporter,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    title: str = "training",
) -> Detector:
    """Train the detector on cached feature maps; the last weights are the result, none are selected.

    Leaves `metrics.jsonl`, `checkpoints/`, their hashes (`checkpoints.json`) and `training.json` in
    `workdir`; a run found there is continued from its newest checkpoint, or the one before with a warning if
    that is damaged.

    Raises
    ------
    InputError
        If there are no pairs, the loss or a logit is not finite, or the run found there was of other data,
        weights, options or code, went on for more steps, or has no checkpoint that is whole.
    """
    if not training.fooled.any() or not testing.fooled.any():
        raise InputError("manifold: no adversarial image fools the classifier, so there are no pairs")
    # A batch cannot hold more pairs than there are.
    size = min(options["pairs_per_batch"], int(training.fooled.sum()))
    origin = fingerprint(detector, training, testing, options, seed)
    structure, evaluated, parameters, statistics = split_modes(detector)
    rates = options["learning_rate"], options["top_factor"]
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": create_optimizer(*rates).init(parameters),
    }
    step = _stepper(structure, rates, seed)
    maps = jnp.asarray(training.maps)
    log = workdir / "metrics.jsonl"
    every = options["evaluate_every"]
    with Checkpoints(workdir) as checkpoints, ExitStack() as shown:
        if checkpoints.any():
            refuse_another(workdir, origin)
        first, state = checkpoints.restore(state)
        if first > options["steps"]:
            raise InputError(
                f"the checkpoints in {workdir} are of {first} steps, and {options['steps']} are asked for: "
                "delete checkpoints/ there to train again, or choose another --workdir"
            )
        write_atomically(workdir / "training.json", canonical_json(origin) + "\n")
        records = [record for record in read_metrics(log) if record["step"] <= first]
        losses, ahead, total = [], StepsAhead(), options["steps"]
        advance = shown.enter_context(reporter.step(title, total, total - first, "steps"))
        for index in range(first, total):
            interrupts.check()
            state, loss = step(state, maps, *training.batch(index, size, seed), np.int32(index))
            losses.append(loss)
            ahead.add(loss)
            advance(1)
            if (index + 1) % every and index + 1 < total:
                continue
            loss = float(np.mean(losses))
            if not np.isfinite(loss):
                raise InputError(f"manifold: the loss is {loss} at step {index + 1}; lower learning_rate")
            current = nnx.merge(evaluated, state["parameters"], state["statistics"], copy=True)
            record = {"step": index + 1, "loss": loss}
            for name, pairs in (("train", training), ("test", testing)):
                logits = scores(current, pairs, 4 * size)
                if not all(np.isfinite(values).all() for values in logits):
                    raise InputError(
                        f"manifold: logits are not finite after step {index + 1}; lower learning_rate"
                    )
                record[f"{name}_accuracy"] = pair_accuracy(*logits, pairs.fooled)
            records.append(record)
            # Before the checkpoint: whoever goes on from that drops later records, and cannot make one anew.
            write_atomically(log, "".join(json.dumps(for_json(r)) + "\n" for r in records))
            checkpoints.save(index + 1, state)
            report(record)
            losses = []
    return nnx.merge(evaluated, state["parameters"], state["statistics"])


def scores(detector: Detector, pairs: Pairs, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the clean `(N,)` and of the adversarial images `(A, N)`."""
    flat = pairs.maps.reshape(-1, *pairs.maps.shape[2:])
    logits = batching.map_batches(_detect, (detector,), (flat,), batch_size=batch_size)
    logits = logits.reshape(pairs.maps.shape[:2])
    return logits[0], logits[1:]


def create(classifier: Any, options: dict[str, Any], seed: int) -> ManifoldClassifier:
    """The classifier with a new head; its top blocks are its own and will be trained."""
    return ManifoldClassifier(classifier, options, rngs=nnx.Rngs(seed))


def load(workdir: Path) -> ManifoldClassifier:
    """A trained manifold classifier from the folder of its run.

    Raises
    ------
    InputError
        If there is none, it was stopped before its last step or went on after it, or is not that of
        `config.json` there.
    """
    file = workdir / "config.json"
    if not file.is_file() or not (workdir / "checkpoints").is_dir():
        raise InputError(f"no trained manifold classifier in {workdir}: run srdef manifold")
    whole, other = ("steps", "blocks", "hidden"), ("learning_rate", "top_factor", "dropout")
    numbers = {**dict.fromkeys(whole, int), **dict.fromkeys(other, int | float)}
    config = _read_json(file, {"classifier": {"name": str}, "seed": int, "manifold": numbers})
    specification = dict(config["classifier"])
    model = create(
        models.create(specification.pop("name"), **specification), config["manifold"], config["seed"]
    )
    # Not the weights of its new head: another version of JAX may draw others.
    refuse_another(workdir, {"options": _course(config["manifold"], config["seed"])})
    _, evaluated, parameters, statistics = split_modes(model.detector)
    rates = config["manifold"]["learning_rate"], config["manifold"]["top_factor"]
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": create_optimizer(*rates).init(parameters),
    }
    with Checkpoints(workdir) as checkpoints:
        done, state = checkpoints.restore(state)
    steps = config["manifold"]["steps"]
    if done < steps:
        raise InputError(
            f"the training in {workdir} was stopped after {done} of {steps} steps: run srdef manifold again"
        )
    if done > steps:
        raise InputError(f"the training in {workdir} has {done} steps, and its config.json says {steps}")
    model.detector = nnx.merge(evaluated, state["parameters"], state["statistics"])
    return model


def trained_on(workdir: Path) -> frozenset[str]:
    """The names of the images that the manifold classifier in the folder of its run was trained on.

    Raises
    ------
    InputError
        If the run has not written them.
    """
    file = workdir / "images.json"
    if not file.is_file():
        raise InputError(f"{file} is missing: run srdef manifold again")
    return frozenset(_read_json(file, {"train": [str]})["train"])


def _read_json(file: Path, kind: Any) -> Any:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{file} is damaged: run srdef manifold again") from None
    if problem := other_than(kind, content, "its content"):
        raise InputError(f"{file} is damaged ({problem}): run srdef manifold again")
    return content
