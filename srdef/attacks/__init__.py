"""Attacks: functions of one victim and one image, and `perturb`, which runs them over batches."""

from srdef.attacks.base import REGISTRY, Attack, AttackResult, create, list_names
from srdef.attacks.batch import perturb, round_result
from srdef.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from srdef.attacks.deepfool import DeepFool, deepfool
from srdef.attacks.gradient_sign import GradientSign, di2fgsm, fgsm, ifgsm, mdi2fgsm, mifgsm, pgd

list = list_names

__all__ = [
    "REGISTRY",
    "Attack",
    "AttackResult",
    "CarliniWagner",
    "DeepFool",
    "GradientSign",
    "carlini_wagner",
    "create",
    "deepfool",
    "di2fgsm",
    "fgsm",
    "ifgsm",
    "list",
    "list_names",
    "mdi2fgsm",
    "mifgsm",
    "perturb",
    "pgd",
    "round_result",
]
