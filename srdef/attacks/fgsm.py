"""FGSM, I-FGSM, MI-FGSM, DI²-FGSM and MDI²-FGSM as the paper has them, and PGD.

Equations (2) to (5), (8) and (9) of Mustafa et al., "Image Super-Resolution as a Defense Against
Adversarial Attacks" (IEEE TIP 2020, arXiv:1901.01677). Its own sources are Goodfellow et al. 2015
(arXiv:1412.6572), Kurakin et al. 2017 (arXiv:1607.02533), Dong et al. 2018 (arXiv:1710.06081) and
Xie et al. 2019 (arXiv:1803.06978); PGD is Madry et al. 2018 (arXiv:1706.06083).
"""

from srdef.attacks.base import REGISTRY
from srdef.attacks.gradient_sign import GradientSign
from srdef.attacks.losses import Loss, check_loss
from srdef.attacks.projections import Norm
from srdef.validation import (
    Scalar,
    check_choice,
    check_count,
    check_epsilon,
    check_flags,
    check_numbers,
    check_shares,
    check_step_size,
)


@REGISTRY.register("fgsm")
def fgsm(
    epsilon: Scalar = 10 / 255,
    *,
    random_start: bool = False,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """FGSM, equation (2): one step of ε along the sign of the gradient.

    The paper uses ε of 2, 5 and 10 levels of 255. With `random_start` the step is one of 1.25 ε from a random
    point of the ball: algorithm 3 of Wong, Rice and Kolter 2020 (arXiv:2001.03994).
    """
    check_epsilon(epsilon, "linf")
    check_loss(loss)
    return GradientSign(
        epsilon,
        step_size=1.25 * epsilon if random_start else epsilon,
        steps=1,
        random_start=random_start,
        targeted=targeted,
        loss=loss,
    )


@REGISTRY.register("ifgsm")
def ifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    steps: int = 10,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """I-FGSM, equation (3); the default step is ε / steps, as in the transfer-attack literature."""
    return mifgsm(epsilon, step_size=step_size, momentum=0.0, steps=steps, targeted=targeted, loss=loss)


@REGISTRY.register("mifgsm")
def mifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """MI-FGSM, equations (4) and (5); ε 16/255, 10 steps of ε/10 and μ 1 as its authors' code.

    The *gradient* is accumulated, divided by its L1 norm. (Some libraries accumulate its sign,
    which is another attack.)
    """
    check_count("steps", steps)
    check_epsilon(epsilon, "linf")
    check_numbers(momentum=momentum)
    check_loss(loss)
    step_size = epsilon / steps if step_size is None else step_size
    check_step_size(step_size, epsilon)
    return GradientSign(epsilon, step_size, momentum, steps=steps, targeted=targeted, loss=loss)


@REGISTRY.register("di2fgsm")
def di2fgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar = 1 / 255,
    steps: int = 20,
    diversity: Scalar = 0.5,
    same_size: bool = False,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """DI²-FGSM, equation (8); ε 16/255, 20 steps of 1/255 and p 0.5 as its authors' code.

    (They take int(min(ε + 4, 1.25 ε)) steps, with ε in levels: 20 for ε = 16.) The model sees images that are
    larger than those given, unless `same_size` resizes them back: for models of one size.
    """
    return mdi2fgsm(
        epsilon,
        step_size=step_size,
        momentum=0.0,
        steps=steps,
        diversity=diversity,
        same_size=same_size,
        targeted=targeted,
        loss=loss,
    )


@REGISTRY.register("mdi2fgsm")
def mdi2fgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar = 1 / 255,
    momentum: Scalar = 1.0,
    steps: int = 20,
    diversity: Scalar = 0.5,
    same_size: bool = False,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """MDI²-FGSM, equation (9): DI²-FGSM with the momentum of MI-FGSM."""
    check_count("steps", steps)
    check_epsilon(epsilon, "linf")
    check_step_size(step_size, epsilon)
    check_numbers(momentum=momentum)
    check_shares(diversity=diversity)
    check_flags(same_size=same_size)
    check_loss(loss)
    return GradientSign(
        epsilon,
        step_size,
        momentum,
        diversity,
        steps=steps,
        diverse_inputs=True,
        same_size=same_size,
        targeted=targeted,
        loss=loss,
    )


@REGISTRY.register("pgd")
def pgd(
    epsilon: Scalar = 8 / 255,
    *,
    step_size: Scalar | None = None,
    steps: int = 40,
    norm: Norm = "linf",
    random_start: bool = True,
    restarts: int = 1,
    stop_early: bool = True,
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """PGD (Madry et al. 2018): I-FGSM from a random start, in L∞ or L2, with restarts.

    The default step is 2.5 ε / steps, as the authors advise: enough to reach the border of the ball
    from any start and to move along it.
    """
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_choice("norm", norm, ("linf", "l2"))
    check_epsilon(epsilon, norm)
    check_loss(loss)
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    check_step_size(step_size, epsilon)
    return GradientSign(
        epsilon,
        step_size,
        steps=steps,
        norm=norm,
        random_start=random_start,
        restarts=restarts,
        stop_early=stop_early,
        targeted=targeted,
        loss=loss,
    )
