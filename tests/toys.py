"""A classifier, data and an experiment so small that whole evaluations take a second."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef import attacks, defenses
from srdef.datasets import Dataset
from srdef.evaluation.experiment import Experiment
from srdef.evaluation.links import Place
from srdef.evaluation.meeting import meet

CLASSES = 4


class Pooled(nnx.Module):
    """A linear classifier of the mean colours of the four quarters of an image."""

    num_classes = CLASSES
    image_size = 8

    def __init__(self):
        weights = np.random.default_rng(1).normal(size=(12, CLASSES))
        self.weights = nnx.Param(jnp.asarray(40 * weights, jnp.float32))

    def features(self, images):
        n, height, width, _ = images.shape
        quarters = images.reshape(n, 2, height // 2, 2, width // 2, 3).mean(axis=(2, 4))
        return quarters - 0.5

    def __call__(self, images):
        return self.features(images).reshape(len(images), -1) @ self.weights[...]


def make_dataset(classifier, count=7, wrong=(2,)):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.float32) / 255
    labels = np.array(classifier(images).argmax(-1), np.int32)
    for index in wrong:
        labels[index] = (labels[index] + 1) % CLASSES
    names = tuple(f"{i}.png" for i in range(count))
    return Dataset(images, labels, names, np.arange(count, dtype=np.int32) + 10, tuple("abcd"))


def make_experiment(**changes):
    classifier = Pooled()
    config = {
        "classifier": {"name": "pooled"},
        "attacks": {"FGSM-2": {"name": "fgsm"}, "FGSM-9": {"name": "fgsm"}, "I-FGSM": {"name": "ifgsm"}},
        "defenses": {"none": {"name": "identity"}, "WD": {"name": "wavelet"}},
    }
    experiment = Experiment(
        config=config,
        dataset=make_dataset(classifier),
        classifier=classifier,
        attacks={
            "FGSM-2": attacks.fgsm(2 / 255),
            "FGSM-9": attacks.fgsm(9 / 255),
            "I-FGSM": attacks.ifgsm(9 / 255, steps=3),
        },
        storage={"FGSM-2": "uint8", "FGSM-9": "uint8", "I-FGSM": "float32"},
        defenses={"none": defenses.Identity(), "WD": defenses.Wavelet()},
        passes={"none": 1, "WD": 1},
        batch_size=3,
        seed=0,
    )
    return replace(experiment, **changes)


def in_threads(work, count):
    """Call `work` in threads that stand for the processes of one run, each with its `Processes`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"

    def one(process):
        with meet(Place(address, count, process), "the same run") as members:
            work(members)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(one, process) for process in range(count)]:
            done.result(timeout=300)
