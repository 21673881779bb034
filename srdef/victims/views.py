"""Scaled copies, mixed images, changed spectra and smoothed gradients: how transfer attacks see an image."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.errors import InputError
from srdef.validation import check_count, check_images, check_numbers, check_shares, numbers_among
from srdef.victims.transformed import Transformed


@struct.dataclass
class ScaledCopies(Transformed):
    """The image divided by 1, 2, 4 and so on: the scale-invariant method (SIM) of SI-NI-FGSM.

    Lin et al. 2020 (arXiv:1908.06281), algorithm 1: the mean gradient of the loss at x / 2^i for
    i = 0 ... copies - 1. As in torchattacks and TransferAttack, 0 is black; in the authors' code
    (JHL-HUST/SI-NI-FGSM) images lie in [-1, 1], so that there the copies approach mid-grey.

    Parameters
    ----------
    victim : Victim
    copies : int
    chunk : int, optional
        Copies computed at a time; None: all.
    """

    victim: Any = None
    copies: int = struct.field(pytree_node=False, default=5)
    chunk: int | None = struct.field(pytree_node=False, default=1)

    def __post_init__(self) -> None:
        _check_copies(self)

    def transform(self, image: jax.Array, key: jax.Array, copy: Any) -> jax.Array:
        return image * jnp.exp2(-jnp.asarray(copy, image.dtype))


@jax.tree_util.register_static
class Bank:
    """Images to mix others with, which count as one by their content.

    Parameters
    ----------
    images : float array (N, height, width, channels)
        In [0, 1].
    """

    def __init__(self, images: Any) -> None:
        self.images = check_images(images).copy()  # the caller's may change
        self._digest = hashlib.sha256(repr(self.images.shape).encode() + self.images.tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bank) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Bank{self.images.shape}:{self._digest[:16]}"


@struct.dataclass
class Admix(Transformed):
    """The image plus a share of another one: Admix, with `ScaledCopies` as the victim or the next view.

    Wang et al. 2021 (arXiv:2102.00436), algorithm 1: x + η x' for several x', each then divided by 1, 2, 4
    and so on. Each x' is drawn from the bank, one image as likely as another. The authors' code
    (JHL-HUST/Admix) takes the images that are attacked together with x; here an image is attacked by itself,
    so the bank is given. As there, the sum may exceed 1, and nothing keeps x' from being x.

    Parameters
    ----------
    victim : Victim
    bank : float array (N, height, width, channels) or Bank
        In [0, 1], of the size of the images.
    share : float
        η.
    copies : int
        How many x'.
    chunk : int, optional
        Copies computed at a time; None: all.

    Raises
    ------
    InputError
        For a bank that is none, or of another size than the image; for a share outside [0, 1].
    """

    victim: Any = None
    bank: Any = struct.field(pytree_node=False, default=None)
    share: Any = 0.2
    copies: int = struct.field(pytree_node=False, default=3)
    chunk: int | None = struct.field(pytree_node=False, default=1)

    def __post_init__(self) -> None:
        _check_copies(self)
        check_shares(**numbers_among({"share": self.share}))
        if self.bank is None:
            raise InputError("Admix needs a bank of images, an array (N, height, width, channels) in [0, 1]")
        if not isinstance(self.bank, Bank):
            object.__setattr__(self, "bank", Bank(self.bank))

    def transform(self, image: jax.Array, key: jax.Array, copy: Any) -> jax.Array:
        images = self.bank.images
        if images.shape[1:] != image.shape:
            sizes = ("x".join(map(str, shape)) for shape in (images.shape[1:], image.shape))
            raise InputError("the bank of Admix holds images of {}, the image has {}".format(*sizes))
        other = jnp.asarray(images)[jax.random.randint(key, (), 0, len(images))]
        return image + (self.share * other).astype(image.dtype)


@struct.dataclass
class SpectrumSimulation(Transformed):
    """The image with noise and a random spectrum: the spectrum simulation attack (SSA, S²I-FGSM).

    Long et al. 2022 (arXiv:2207.05382), algorithm 1: IDCT(DCT(x + ξ) * M), with ξ normal with deviation σ
    and M uniform in [1 - ρ, 1 + ρ], over the whole image. As in the authors' code (yuyang-long/SSA,
    `attack.py`), the gradient is that at the transformed image, not brought back through the transformation.

    Parameters
    ----------
    victim : Victim
    rho : float
        ρ.
    sigma : float
        σ, in units of the [0, 1] range.
    copies : int
    chunk : int, optional
        Copies computed at a time; None: all.

    Raises
    ------
    InputError
        For a ρ outside [0, 1], and for a σ that is negative, NaN or infinite.
    """

    victim: Any = None
    rho: Any = 0.5
    sigma: Any = 16 / 255
    copies: int = struct.field(pytree_node=False, default=20)
    chunk: int | None = struct.field(pytree_node=False, default=1)

    def __post_init__(self) -> None:
        _check_copies(self)
        check_shares(**numbers_among({"rho": self.rho}))
        check_numbers(**numbers_among({"sigma": self.sigma}))

    def transform(self, image: jax.Array, key: jax.Array, copy: Any) -> jax.Array:
        noise_key, mask_key = jax.random.split(key)
        noisy = image + self.sigma * jax.random.normal(noise_key, image.shape, image.dtype)
        mask = 1 + self.rho * jax.random.uniform(mask_key, image.shape, image.dtype, -1, 1)
        spectrum = jax.scipy.fft.dctn(jax.lax.stop_gradient(noisy), axes=(0, 1), norm="ortho")
        seen = jax.scipy.fft.idctn(spectrum * mask, axes=(0, 1), norm="ortho")
        return image + jax.lax.stop_gradient(seen - image).astype(image.dtype)


@struct.dataclass
class SmoothedGradient(Transformed):
    """The image as it is, and its gradient convolved with a Gaussian: the translation-invariant method (TI).

    Dong et al. 2019 (arXiv:1904.02884), section 3.2: W * ∇J, which is about the mean gradient over shifted
    images. W is the product of normal densities at `size` places from -nsig to nsig deviations, so that the
    standard deviation is (size - 1) / (2 nsig) pixels: 2.33 for 15 and 3. Beyond the border the gradient is
    zero. Both as in the authors' code and torchattacks. As the last of several views, or the first, it makes
    no difference, if none of them changes the size.

    Parameters
    ----------
    victim : Victim
    nsig : float
    size : int
        Of the kernel in pixels, odd.

    Raises
    ------
    InputError
        For a size that is not odd, and for an `nsig` that is negative, NaN or infinite.
    """

    victim: Any = None
    nsig: Any = 3.0
    size: int = struct.field(pytree_node=False, default=15)

    def __post_init__(self) -> None:
        if (
            isinstance(self.size, bool)
            or not isinstance(self.size, int)
            or self.size < 1
            or not self.size % 2
        ):
            raise InputError(f"size must be an odd number of at least 1, not {self.size!r}")
        check_numbers(**numbers_among({"nsig": self.nsig}))

    @property
    def copies(self) -> int:
        return 1

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        return self.expected(lambda logits: logits, image, key)

    def transform(self, image: jax.Array, key: jax.Array, copy: Any) -> jax.Array:
        # The matrices are symmetric, so their product with the image has the gradient that is sought.
        rows, columns = (self._matrix(side).astype(image.dtype) for side in image.shape[:2])
        smooth = jnp.einsum("ij,jkc,kl->ilc", rows, image, columns, precision="highest")
        return jax.lax.stop_gradient(image) + (smooth - jax.lax.stop_gradient(smooth))

    def _matrix(self, side: int) -> jax.Array:
        """The matrix of the convolution along an axis of this length."""
        half = self.size // 2
        places = self.nsig * jnp.linspace(-1.0, 1.0, self.size) if half else jnp.zeros(1)
        kernel = jnp.exp(-(places**2) / 2)
        apart = np.arange(side)[:, None] - np.arange(side)
        near = np.abs(apart) <= half
        return jnp.where(near, (kernel / kernel.sum())[np.where(near, apart + half, 0)], 0)


def _check_copies(view: Any) -> None:
    check_count("copies", view.copies)
    if view.chunk is not None:
        check_count("chunk", view.chunk)
