"""An attacker who knows the detector: one attack on the classifier and the detector together."""

import jax.numpy as jnp
import numpy as np

from srdef import attacks, batching, images
from srdef.detection.network import ManifoldClassifier, detect
from srdef.detection.pairs import rate_of
from srdef.detection.victim import WithDetector, lead_over_both
from srdef.evaluation.run import Run
from srdef.metrics import Rate
from srdef.storage.fingerprint import digest

CLASSIFIER_ALONE, BOTH = "the classifier alone", "classifier and detector"

# The attacks draw from `experiment.key(JOINT)`.
JOINT = 2


def attack_both(
    run: Run, model: ManifoldClassifier, sources: list[str], epsilon: float, steps: int
) -> dict[str, dict[str, Rate]]:
    """Attack the images of a run with APGD, without and with the detector in the loss.

    Parameters
    ----------
    run : Run
        Its images are all classified correctly when clean.
    model : ManifoldClassifier
    sources : list of str
        For each image what it was cut from.
    epsilon : float
        Radius of the L∞ ball, in units of the [0, 1] range.
    steps : int

    Returns
    -------
    dict
        By attacker (`CLASSIFIER_ALONE`, `BOTH`) the share of images, in 8 bits, that fool the classifier
        ("fools"), that are called clean ("clean"), and that do both ("both").
    """
    experiment, dataset = run.experiment, run.dataset
    attack = attacks.create("apgd", epsilon=epsilon, steps=steps, loss=lead_over_both, stop_early=False)
    found = {}
    for label, threshold in ((CLASSIFIER_ALONE, np.inf), (BOTH, 0.0)):
        victim = WithDetector(model, jnp.float32(threshold))

        def compute(rows: slice, victim: WithDetector = victim) -> dict[str, np.ndarray]:
            result = attacks.perturb(
                attack,
                victim,
                dataset.batch(rows),
                dataset.labels[rows],
                key=experiment.key(JOINT),
                ids=dataset.ids[rows],
                batch_size=experiment.batch_size,
                storage="uint8",
            )
            pixels = images.from_uint8(images.to_uint8(result.images))
            logits = batching.map_batches(detect, (model,), (pixels,), batch_size=experiment.batch_size)
            return {"prediction": run.predict(pixels).astype(np.int32), "logits": logits}

        store = run.stored(
            f"attack {label}",
            "joint",
            (label,),
            {"prediction": ((), np.int32), "logits": ((), np.float32)},
            compute,
            code=(victim, attack, attacks.batch, detect),
            attack=digest(attack),
            victim=digest(victim),
        )
        fools, clean = store.read("prediction") != dataset.labels, store.read("logits") <= 0
        shares = {"fools": fools, "clean": clean, "both": fools & clean}
        found[label] = {name: rate_of(share, sources) for name, share in shares.items()}
    return found
