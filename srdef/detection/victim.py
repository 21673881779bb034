"""What an attacker sees who knows the detector: a classifier with one more class, and a loss for both."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.losses import max_other_logit
from srdef.victims import Victim, as_logits


@struct.dataclass
class WithDetector(Victim):
    """A classifier with one more class, "adversarial", that wins where the detector says so.

    Its logit is max Z + D - threshold, where Z are the logits of the classifier and D is that of the
    detector: as in Carlini and Wagner 2017, "Adversarial examples are not easily detected"
    (arXiv:1705.07263), who multiply by D + 1 instead of adding D.

    Parameters
    ----------
    model : ManifoldClassifier
    threshold : float
        An image is called adversarial above it; with infinity there is no detector.
    """

    model: Any
    threshold: Any = 0.0

    @property
    def classifier(self) -> Any:
        """The network under the detector."""
        return self.model.network

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes + 1

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        network = self.classifier
        maps = network.endpoints(image[None])
        logits = as_logits(network.classifier(jnp.mean(maps[network.last_endpoint], axis=(1, 2)))[0])
        suspicion = self.model.detector(maps[self.model.endpoint])[0]
        return jnp.append(logits, logits.max() + suspicion - self.threshold)


def lead_over_both(logits: jax.Array, label: jax.Array) -> jax.Array:
    """By how much another class leads the label's and the class "adversarial": above 0 fools both."""
    classes = logits[:-1]
    return max_other_logit(classes, label) - jnp.maximum(classes[label], logits[-1])
