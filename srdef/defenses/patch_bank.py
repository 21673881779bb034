"""Banks of patches of clean images, of which quilting rebuilds others."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import flax.struct
import jax
import numpy as np

from srdef.defenses.options import check_integer
from srdef.errors import InputError
from srdef.images import to_uint8
from srdef.paths import expanded
from srdef.storage.files import replacing


@flax.struct.dataclass
class PatchBank:
    """Patches of clean images, and the codes that are compared in the search for the nearest.

    Parameters
    ----------
    patches : uint8 array (P, size, size, 3)
    codes : float32 array (P, D)
        The patches in [0, 1], flat, minus `mean`, times `components`.
    mean : float32 array (size * size * 3,)
    components : float32 array (size * size * 3, D)
        Principal components, or the identity matrix for the exact distance.
    """

    patches: jax.Array | np.ndarray
    codes: jax.Array | np.ndarray
    mean: jax.Array | np.ndarray
    components: jax.Array | np.ndarray

    @property
    def patch_size(self) -> int:
        """The side of the patches."""
        return self.patches.shape[1]

    def save(self, path: str | Path) -> None:
        """Write a NumPy archive, from which `load_bank` reads; it appears whole or not at all.

        Parameters
        ----------
        path : path
            Of the file; without the suffix `.npz` it gets it.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        with replacing(_archive(path)) as unfinished, unfinished.open("wb") as file:
            np.savez(file, patches=self.patches, mean=self.mean, components=self.components)


def _archive(path: str | Path) -> Path:
    """`path` with the suffix `.npz`."""
    path = expanded(path)
    return path if path.suffix == ".npz" else Path(f"{path}.npz")


def _with_codes(patches: np.ndarray, mean: np.ndarray, components: np.ndarray) -> PatchBank:
    flat = patches.reshape(len(patches), -1).astype(np.float32) / 255
    return PatchBank(patches, (flat - mean) @ components, mean, components)


def build_bank(
    images: Iterable[np.ndarray],
    count: int,
    *,
    patch_size: int = 5,
    principal_components: int | None = None,
    seed: int = 0,
) -> PatchBank:
    """Draw patches at random places of images, equally many from each.

    Parameters
    ----------
    images : iterable of uint8 arrays (H, W, 3)
        Images smaller than a patch are skipped.
    count : int
        Number of patches, rounded up to a multiple of the number of images.
    patch_size : int
    principal_components : int, optional
        Compare patches by so many principal components; default: by all values, exactly.
    seed : int

    Raises
    ------
    InputError
        If no image is as large as a patch, or a number is out of range.
    """
    check_integer("patch bank", "count", count, 1)
    check_integer("patch bank", "patch_size", patch_size, 2)
    values = patch_size**2 * 3
    if principal_components is not None:
        check_integer("patch bank", "principal_components", principal_components, 1, values)
    usable = [image for image in images if min(image.shape[:2]) >= patch_size]
    if not usable:
        raise InputError(f"patch bank: no image has {patch_size} pixels along each side")
    rng = np.random.default_rng(seed)
    each = -(-count // len(usable))
    drawn = []
    for image in usable:
        windows = np.lib.stride_tricks.sliding_window_view(image, (patch_size, patch_size), axis=(0, 1))
        rows = rng.integers(windows.shape[0], size=each)
        columns = rng.integers(windows.shape[1], size=each)
        drawn.append(windows[rows, columns].transpose(0, 2, 3, 1))
    patches = np.concatenate(drawn)
    mean, components = np.zeros(values, np.float32), np.eye(values, dtype=np.float32)
    if principal_components is not None:
        flat = patches.reshape(len(patches), -1).astype(np.float32) / 255
        mean = flat.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(flat.T.astype(np.float64)))
        components = vectors[:, ::-1][:, :principal_components].astype(np.float32)
    return _with_codes(patches, mean, components)


def bank_from_folder(
    folder: str | Path, count: int, *, pattern: str = "*", **options: int | None
) -> PatchBank:
    """`build_bank` from the images below a folder whose names match `pattern` ("*.png").

    Files are known as images by their suffixes, and read as those of the data sets are (transparent parts on
    white, turned as the camera noted).

    Do not evaluate on the images that the bank is made of: the nearest patch of an attacked image
    would be its own clean one.

    Raises
    ------
    InputError
        If there is no such folder, no image in it, one that cannot be read, or as `build_bank`.
    """
    # Here, so that defenses without a bank load no reading code.
    from srdef.datasets.files import existing_folder, list_images
    from srdef.datasets.reading import read_image

    paths = [path for path in list_images(existing_folder(folder)) if fnmatchcase(path.name, pattern)]
    if not paths:
        raise InputError(f"patch bank: no image in {folder} matches {pattern!r}")
    return build_bank([np.asarray(read_image(path)) for path in paths], count, **options)  # type: ignore[arg-type]


def bank_from_dataset(dataset: Mapping[str, Any], count: int, **options: int | None) -> PatchBank:
    """`build_bank` from a data set, as plain data: `{"name": "imagenet_samples", "size": 160}`.

    The patches are those of the images as they are read, so their size should be that of the images
    which will be defended. These must be others: see `bank_from_folder`.

    Raises
    ------
    InputError
        As `srdef.datasets.load` and `build_bank`.
    """
    from srdef import datasets  # here, so that defenses without a bank load no reading code

    if not isinstance(dataset, Mapping) or not {"name", "size"} <= set(dataset):
        raise InputError(f"patch bank: dataset must have the fields name and size, not {dataset!r}")
    return build_bank(to_uint8(datasets.load(**dataset).images), count, **options)  # type: ignore[arg-type]


def load_bank(path: str | Path) -> PatchBank:
    """Read what `PatchBank.save` wrote under the same path.

    Raises
    ------
    InputError
        If there is no such file or it is no patch bank.
    """
    path = _archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            patches, mean, components = (archive[name] for name in ("patches", "mean", "components"))
    except FileNotFoundError:
        raise InputError(f"patch bank: there is no file {path}") from None
    except Exception as error:  # of damaged archives zipfile, zlib and NumPy raise nearly everything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"patch bank: {path} is no patch bank: {reason}") from None
    _check_arrays(path, patches, mean, components)
    return _with_codes(patches, mean, components)


def _check_arrays(path: Path, patches: np.ndarray, mean: np.ndarray, components: np.ndarray) -> None:
    wrong = f"patch bank: {path} is no patch bank"
    form = f"{patches.dtype} {patches.shape}"
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != (*patches.shape[1:2] * 2, 3):
        raise InputError(f"{wrong}: patches are {form}, not uint8 (P, size, size, 3)")
    if not len(patches) or patches.shape[1] < 2:
        raise InputError(f"{wrong}: patches are {patches.shape}, none or below 2x2 pixels")
    values = patches[0].size
    if mean.shape != (values,):
        raise InputError(f"{wrong}: mean has the shape {mean.shape}, not {(values,)}")
    if components.ndim != 2 or len(components) != values or not 1 <= components.shape[1] <= values:
        raise InputError(f"{wrong}: components have the shape {components.shape}, not ({values}, D)")
    for name, array in (("mean", mean), ("components", components)):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise InputError(f"{wrong}: {name} must be finite float32 numbers")


def make_bank(bank: PatchBank | str | Path | Mapping[str, Any]) -> PatchBank:
    """A bank itself, the one saved at a path, or one built of plain data, as for the defense "quilting"."""
    if isinstance(bank, PatchBank):
        return bank
    if isinstance(bank, str | Path):
        return load_bank(bank)
    if not isinstance(bank, Mapping):
        raise InputError(
            "patch bank: give the path of one, what to build one of, or what defenses.build_bank returns, "
            f"not {type(bank).__name__}"
        )
    known = ("dataset", "count", "patch_size", "principal_components", "seed")
    for name in bank:
        if name not in known:
            raise InputError(f"patch bank: unknown field {name!r}; choose from: {', '.join(known)}")
    if not {"dataset", "count"} <= set(bank):
        raise InputError(f"patch bank: needs the fields dataset and count, not {dict(bank)!r}")
    return bank_from_dataset(**bank)
