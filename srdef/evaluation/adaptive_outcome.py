"""What an adaptive evaluation leaves: which images every attacker left, and the worst case of each."""

from dataclasses import dataclass, field

import numpy as np

from srdef.attacks.arithmetic import Arithmetic
from srdef.attacks.projections import Norm
from srdef.datasets import Dataset
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.threats import WORST


@dataclass(frozen=True)
class Outcome:
    """What `run` leaves.

    Attributes
    ----------
    images : int
        How many images the undefended classifier classifies correctly: the denominator.
    epsilons : tuple of float
    defenses, threats : tuple of str
    chosen, judged : dict of (defense, threat) to float array (images, epsilons)
        The share of draws that are classified correctly, twice, with draws of their own; equal for
        deterministic defenses; NaN at an ε at which the threat does not attack. "clean" has the same value
        at every ε.
    norm : "linf", "l2" or "l1"
        The norm of the ε.
    flagged : dict of (defense, threat) to dict of str to bool array (images, epsilons)
        Where something was not finite on the way of an attack, or a gradient exactly zero: `measures.FLAGS`.
    arithmetic : str
        What the steps of the attacks were computed in.
    dataset : Dataset, optional
        The images, in the order of the arrays.
    """

    images: int
    epsilons: tuple[float, ...]
    defenses: tuple[str, ...]
    threats: tuple[str, ...]
    chosen: dict[tuple[str, str], np.ndarray]
    judged: dict[tuple[str, str], np.ndarray]
    norm: Norm = "linf"
    flagged: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)
    arithmetic: Arithmetic = "float32"
    dataset: Dataset | None = None

    def accuracy(self, defense: str, threat: str) -> np.ndarray | None:
        """Accuracies `(epsilons,)` under one threat or in the worst case; None or NaN where not attacked."""
        shares = self.worst(defense) if threat == WORST else self.judged.get((defense, threat))
        return None if shares is None else shares.mean(axis=0)

    def worst(self, defense: str) -> np.ndarray:
        """The share of correct draws `(images, epsilons)` under the worst threat for each image.

        Candidates are all threats at this and every smaller ε, and no attack. For a random defense
        the worst one is chosen with some draws and reported with others, as the smallest of
        several noisy shares would be too small.
        """
        labels = [threat for threat in (CLEAN, *self.threats) if (defense, threat) in self.judged]
        chosen = np.stack([self.chosen[defense, threat] for threat in labels])
        judged = np.stack([self.judged[defense, threat] for threat in labels])
        result = np.empty_like(judged[0])
        for e in range(len(self.epsilons)):
            # (candidates, images)
            candidates = chosen[:, :, : e + 1].transpose(0, 2, 1).reshape(-1, chosen.shape[1])
            reported = judged[:, :, : e + 1].transpose(0, 2, 1).reshape(-1, chosen.shape[1])
            # Many shares of few draws are equal: then the candidate counts that is the worst on average over
            # all images, and of those the last threat at the largest ε, which is likely the strongest. The
            # draws that report have no say: what they choose they report too low.
            tried = np.flatnonzero(~np.isnan(candidates).any(axis=1))[::-1]
            average = candidates[tried].mean(axis=1)
            order = tried[np.argsort(average, kind="stable")]
            worst = order[np.argmin(candidates[order], axis=0)]
            result[:, e] = np.take_along_axis(reported, worst[None], axis=0)[0]
        return result
