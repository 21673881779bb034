"""Attacks: functions of one victim and one image, and `perturb`, which runs them over batches."""

from srdef.attacks.apgd import AutoPGD, apgd, apgd_t
from srdef.attacks.autoattack import AutoAttack, AutoAttackResult, autoattack, ensemble
from srdef.attacks.base import (
    REGISTRY,
    Attack,
    AttackResult,
    create,
    is_adversarial,
    list_names,
    without_early_stop,
)
from srdef.attacks.batch import perturb, round_result
from srdef.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from srdef.attacks.deepfool import DeepFool, deepfool
from srdef.attacks.fab import FAB, fab, fab_t
from srdef.attacks.gradient_sign import GradientSign, di2fgsm, fgsm, ifgsm, mdi2fgsm, mifgsm, pgd
from srdef.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from srdef.attacks.square import Square, square
from srdef.attacks.transfer import accuracy_over_draws, transfer

__all__ = [
    "FAB",
    "REGISTRY",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "AutoAttackResult",
    "AutoPGD",
    "CarliniWagner",
    "DeepFool",
    "GradientSign",
    "HopSkipJump",
    "Square",
    "accuracy_over_draws",
    "apgd",
    "apgd_t",
    "autoattack",
    "carlini_wagner",
    "create",
    "deepfool",
    "di2fgsm",
    "ensemble",
    "fab",
    "fab_t",
    "fgsm",
    "hop_skip_jump",
    "ifgsm",
    "is_adversarial",
    "list_names",
    "mdi2fgsm",
    "mifgsm",
    "perturb",
    "pgd",
    "round_result",
    "square",
    "transfer",
    "without_early_stop",
]
