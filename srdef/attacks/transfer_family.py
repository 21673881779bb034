"""Attacks that are made to transfer to victims that the attacker does not have.

All are MI-FGSM (Dong et al. 2018, arXiv:1710.06081) with another gradient, and combine: `views` takes
`victims.DiverseInputs()` (DI), `ScaledCopies()` (SI), `SmoothedGradient()` (TI), `SpectrumSimulation()` (SSA)
and `Admix(bank=...)`, in the order in which they transform the image, and `victims.Ensemble` puts several
sources into one. ε is 16/255, the steps are 10 of ε/10, and μ is 1, as in the authors' codes.

    attacks.vnifgsm(views=(victims.ScaledCopies(), victims.DiverseInputs(), victims.SmoothedGradient()))
"""

from dataclasses import replace
from typing import Any

from srdef.attacks.base import REGISTRY, Attack
from srdef.attacks.gradient_sign import GradientSign
from srdef.attacks.losses import Loss, check_loss
from srdef.errors import InputError
from srdef.validation import Scalar, check_count, check_epsilon, check_numbers, check_shares, check_step_size
from srdef.victims import Admix, ScaledCopies, SmoothedGradient, SpectrumSimulation, Transformed

Views = tuple[Transformed, ...]


def _transferable(
    epsilon: Scalar,
    step_size: Scalar | None,
    momentum: Scalar,
    steps: int,
    views: Views,
    targeted: bool,
    loss: Loss,
    **options: Any,
) -> GradientSign:
    """The attack of these numbers; InputError for bad ones."""
    check_count("steps", steps)
    check_epsilon(epsilon, "linf")
    check_numbers(momentum=momentum)
    check_loss(loss)
    for view in _several(views):
        if not isinstance(view, Transformed):
            raise InputError(f"a view must be one like victims.ScaledCopies(), not {view!r:.80}")
        if view.victim is not None:
            raise InputError(f"a view has no victim of its own: give {type(view).__name__}() without one")
    step_size = epsilon / steps if step_size is None else step_size
    check_step_size(step_size, epsilon)
    return GradientSign(
        epsilon,
        step_size,
        momentum,
        steps=steps,
        targeted=targeted,
        loss=loss,
        views=tuple(views),
        **options,
    )


def _several(views: Any) -> Views:
    if not isinstance(views, list | tuple):
        raise InputError(f"views must be a tuple of views, like (victims.ScaledCopies(),), not {views!r:.80}")
    return tuple(views)


@REGISTRY.register("nifgsm")
def nifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """NI-FGSM: the gradient is taken where the momentum leads (Nesterov).

    Lin et al. 2020 (arXiv:1908.06281), section 3.2 and their code (JHL-HUST/SI-NI-FGSM): at
    x + α μ g, where g sums gradients over their mean absolute value. (The paper writes the L1 norm, with
    which the look-ahead would be too short to be seen.) That point may lie outside the ball and [0, 1].
    """
    return _transferable(epsilon, step_size, momentum, steps, views, targeted, loss, nesterov=True)


@REGISTRY.register("sinifgsm")
def sinifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    copies: int = 5,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """SI-NI-FGSM: NI-FGSM with the mean gradient at x, x / 2, x / 4 and so on.

    Lin et al. 2020 (arXiv:1908.06281), algorithm 1; 5 copies. See `victims.ScaledCopies`, which is the first
    of the views.
    """
    views = (ScaledCopies(copies=copies), *_several(views))
    return _transferable(epsilon, step_size, momentum, steps, views, targeted, loss, nesterov=True)


@REGISTRY.register("tifgsm")
def tifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    size: int = 15,
    nsig: Scalar = 3.0,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """TI-MI-FGSM: gradients smoothed by a Gaussian.

    Dong et al. 2019 (arXiv:1904.02884), section 3.3, and their code (dongyp13/Translation-Invariant-Attacks),
    with a kernel of 15 x 15 pixels that reaches 3 standard deviations: see `victims.SmoothedGradient`, which
    is the last of the views. With `views=(victims.DiverseInputs(),)` it is TI-DIM; torchattacks' TIFGSM is
    that with momentum 0 and other resizing.
    """
    check_numbers(nsig=nsig)
    views = (*_several(views), SmoothedGradient(nsig=nsig, size=size))
    return _transferable(epsilon, step_size, momentum, steps, views, targeted, loss)


@REGISTRY.register("vmifgsm")
def vmifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    neighbours: int = 20,
    neighbourhood: Scalar = 1.5,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """VMI-FGSM: MI-FGSM with the gradient's variance near the last point added.

    Wang and He 2021 (arXiv:2103.15571), algorithm 1, and their code (JHL-HUST/VT): v is the mean gradient at
    N = 20 neighbours of x, drawn uniformly within β ε = 1.5 ε, minus the gradient at x; it is added to
    the next gradient. Neighbours are not brought into [0, 1].
    """
    check_count("neighbours", neighbours)
    check_numbers(neighbourhood=neighbourhood)
    return _transferable(
        epsilon,
        step_size,
        momentum,
        steps,
        views,
        targeted,
        loss,
        neighbours=neighbours,
        neighbourhood=neighbourhood,
    )


@REGISTRY.register("vnifgsm")
def vnifgsm(
    epsilon: Scalar = 16 / 255,
    *,
    neighbours: int = 20,
    neighbourhood: Scalar = 1.5,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """VNI-FGSM: NI-FGSM with the gradient's variance near the last point added.

    Wang and He 2021 (arXiv:2103.15571), algorithm 1, and their code (JHL-HUST/VT): v is the mean gradient at
    N = 20 neighbours of x, drawn uniformly within β ε = 1.5 ε, minus the gradient at the look-ahead; it is
    added to the next gradient. Neighbours are not brought into [0, 1].
    """
    attack = vmifgsm(
        epsilon,
        neighbours=neighbours,
        neighbourhood=neighbourhood,
        step_size=step_size,
        momentum=momentum,
        steps=steps,
        views=views,
        targeted=targeted,
        loss=loss,
    )
    return replace(attack, nesterov=True)


@REGISTRY.register("admix")
def admix(
    epsilon: Scalar = 16 / 255,
    *,
    bank: Any,
    share: Scalar = 0.2,
    mixes: int = 3,
    copies: int = 5,
    step_size: Scalar | None = None,
    momentum: Scalar = 1.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """Admix: the mean gradient at the image mixed with others, and at copies of that scaled by 1/2, 1/4, ...

    Wang et al. 2021 (arXiv:2102.00436), algorithm 1, and their code (JHL-HUST/Admix): 3 mixes with a share
    η = 0.2 of another image, 5 copies of each. See `victims.Admix`, of which the bank is the same array, and
    `victims.ScaledCopies`, which are the first two views.
    """
    check_count("mixes", mixes)
    check_shares(share=share)
    views = (Admix(bank=bank, share=share, copies=mixes), ScaledCopies(copies=copies), *_several(views))
    return _transferable(epsilon, step_size, momentum, steps, views, targeted, loss)


@REGISTRY.register("ssa")
def ssa(
    epsilon: Scalar = 16 / 255,
    *,
    copies: int = 20,
    rho: Scalar = 0.5,
    sigma: Scalar = 16 / 255,
    step_size: Scalar | None = None,
    momentum: Scalar = 0.0,
    steps: int = 10,
    views: Views = (),
    targeted: bool = False,
    loss: Loss = "cross_entropy",
) -> GradientSign:
    """SSA, also called S²I-FGSM: the mean gradient at copies with noise and a random spectrum.

    Long et al. 2022 (arXiv:2207.05382), algorithm 1, and their code (yuyang-long/SSA): 20 copies, ρ 0.5, σ
    16/255, and no momentum; with `momentum=1` it is S²I-MI-FGSM. See `victims.SpectrumSimulation`, which is
    the first of the views.
    """
    check_numbers(sigma=sigma)
    check_shares(rho=rho)
    views = (SpectrumSimulation(rho=rho, sigma=sigma, copies=copies), *_several(views))
    return _transferable(epsilon, step_size, momentum, steps, views, targeted, loss)


def create_for(images: Any, name: str, **options: Any) -> Attack:
    """As `create`; an attack that takes a bank of images and is given none gets those that it will attack."""
    if REGISTRY.takes(name, "bank"):
        options.setdefault("bank", images)
    return REGISTRY.create(name, **options)
