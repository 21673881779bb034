"""Attacks: functions of one victim and one image, and `perturb`, which runs them over batches."""

from typing import Any

from srdef.attacks.base import REGISTRY, Attack, AttackResult, perturb
from srdef.attacks.gradient_sign import GradientSign, fgsm, ifgsm, mifgsm

__all__ = [
    "Attack",
    "AttackResult",
    "GradientSign",
    "create",
    "fgsm",
    "ifgsm",
    "list_names",
    "mifgsm",
    "perturb",
]


def create(name: str, **options: Any) -> Attack:
    """Make the attack `name` from plain data; InputError lists the names or the options."""
    return REGISTRY.create(name, **options)


def list_names() -> list[str]:
    """The names that `create` knows."""
    return REGISTRY.names()


list = list_names
