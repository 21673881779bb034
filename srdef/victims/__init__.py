"""What an attack sees: a classifier together with what stands before it.

A victim is a frozen pytree: `victim(image, key)` maps one image `(height, width, 3)` in [0, 1] to
logits `(classes,)`. The key feeds whatever is random in it; a deterministic victim ignores it.
Attacks differentiate through a victim, so what a wrapper does to gradients is what the adversary
knows.
"""

from srdef.victims.averages import Ensemble, ExpectationOverTransformation
from srdef.victims.base import (
    Average,
    LogMean,
    Victim,
    as_logits,
    check_victim,
    draws_per_call,
    expected,
    expected_loss,
)
from srdef.victims.defended import Defended, Gradient, Undefended
from srdef.victims.diverse_inputs import DiverseInputs, canvas_side
from srdef.victims.estimated_gradient import Directions, EstimatedGradient
from srdef.victims.transformed import OneCopy, Transformed, through
from srdef.victims.views import Admix, Bank, ScaledCopies, SmoothedGradient, SpectrumSimulation

__all__ = [
    "Admix",
    "Average",
    "Bank",
    "Defended",
    "Directions",
    "DiverseInputs",
    "Ensemble",
    "EstimatedGradient",
    "ExpectationOverTransformation",
    "Gradient",
    "LogMean",
    "OneCopy",
    "ScaledCopies",
    "SmoothedGradient",
    "SpectrumSimulation",
    "Transformed",
    "Undefended",
    "Victim",
    "as_logits",
    "canvas_side",
    "check_victim",
    "draws_per_call",
    "expected",
    "expected_loss",
    "through",
]
