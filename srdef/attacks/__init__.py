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
from srdef.attacks.fgsm import di2fgsm, fgsm, ifgsm, mdi2fgsm, mifgsm, pgd
from srdef.attacks.gradient_sign import GradientSign
from srdef.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from srdef.attacks.square import Square, square
from srdef.attacks.transfer import accuracy_over_draws, transfer
from srdef.attacks.transfer_family import admix, nifgsm, sinifgsm, ssa, tifgsm, vmifgsm, vnifgsm

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
    "admix",
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
    "nifgsm",
    "perturb",
    "pgd",
    "round_result",
    "sinifgsm",
    "square",
    "ssa",
    "tifgsm",
    "transfer",
    "vmifgsm",
    "vnifgsm",
    "without_early_stop",
]
