"""Attacks: functions of one victim and one image, and `perturb`, which runs them over batches."""

from srdef.attacks import targets
from srdef.attacks.alma import ALMA, alma
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
from srdef.attacks.batch import perturb
from srdef.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from srdef.attacks.corruptions import contrast_reduction, gaussian_blur, salt_and_pepper
from srdef.attacks.ddn import DDN, ddn
from srdef.attacks.deepfool import DeepFool, deepfool
from srdef.attacks.ead import EAD, ead
from srdef.attacks.fab import FAB, fab, fab_t
from srdef.attacks.fgsm import di2fgsm, fgsm, ifgsm, mdi2fgsm, mifgsm, pgd
from srdef.attacks.fmn import FMN, fmn
from srdef.attacks.gradient_sign import GradientSign
from srdef.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from srdef.attacks.judging import round_result
from srdef.attacks.minimal_epsilon import MinimalEpsilon, minimal_epsilon
from srdef.attacks.noise import gaussian_noise, uniform_noise
from srdef.attacks.repeat import Repeated, repeat
from srdef.attacks.sigma_zero import SigmaZero, sigma_zero
from srdef.attacks.simba import SimBA, simba
from srdef.attacks.sparse_rs import SparseRS, sparse_rs
from srdef.attacks.spsa import SPSA, spsa
from srdef.attacks.square import Square, square
from srdef.attacks.trace import Trace
from srdef.attacks.transfer import accuracy_over_draws, transfer
from srdef.attacks.transfer_family import admix, create_for, nifgsm, sinifgsm, ssa, tifgsm, vmifgsm, vnifgsm

__all__ = [
    "ALMA",
    "DDN",
    "EAD",
    "FAB",
    "FMN",
    "REGISTRY",
    "SPSA",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "AutoAttackResult",
    "AutoPGD",
    "CarliniWagner",
    "DeepFool",
    "GradientSign",
    "HopSkipJump",
    "MinimalEpsilon",
    "Repeated",
    "SigmaZero",
    "SimBA",
    "SparseRS",
    "Square",
    "Trace",
    "accuracy_over_draws",
    "admix",
    "alma",
    "apgd",
    "apgd_t",
    "autoattack",
    "carlini_wagner",
    "contrast_reduction",
    "create",
    "create_for",
    "ddn",
    "deepfool",
    "di2fgsm",
    "ead",
    "ensemble",
    "fab",
    "fab_t",
    "fgsm",
    "fmn",
    "gaussian_blur",
    "gaussian_noise",
    "hop_skip_jump",
    "ifgsm",
    "is_adversarial",
    "list_names",
    "mdi2fgsm",
    "mifgsm",
    "minimal_epsilon",
    "nifgsm",
    "perturb",
    "pgd",
    "repeat",
    "round_result",
    "salt_and_pepper",
    "sigma_zero",
    "simba",
    "sinifgsm",
    "sparse_rs",
    "spsa",
    "square",
    "ssa",
    "targets",
    "tifgsm",
    "transfer",
    "uniform_noise",
    "vmifgsm",
    "vnifgsm",
    "without_early_stop",
]
