"""Principal component analysis, by the singular value decomposition of the centred data."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError
from srdef.validation import check_count


@flax.struct.dataclass
class PCA:
    """Directions of the largest variance.

    Attributes
    ----------
    mean : array (D,)
    components : array (k, D)
        Orthonormal rows, by falling variance; the entry of each that is largest in magnitude is positive
        (the choice of scikit-learn), so that a plot is not mirrored from run to run.
    explained_variance : array (k,)
        Along each component, with N - 1 in the denominator.
    explained_variance_ratio : array (k,)
        The same as a share of the total variance.
    """

    mean: jax.Array
    components: jax.Array
    explained_variance: jax.Array
    explained_variance_ratio: jax.Array

    def transform(self, data: jax.Array | np.ndarray) -> jax.Array:
        """Coordinates `(N, k)` of `data` `(N, D)`."""
        return jnp.matmul(data - self.mean, self.components.T, precision="highest")

    def inverse_transform(self, coordinates: jax.Array) -> jax.Array:
        """The point `(N, D)` that lies in the plane of the components at `coordinates` `(N, k)`."""
        return jnp.matmul(coordinates, self.components, precision="highest") + self.mean


def fit(data: jax.Array | np.ndarray, components: int) -> PCA:
    """The first principal components of `data`.

    Parameters
    ----------
    data : float array (N, D)
    components : int
        At most min(N, D).

    Raises
    ------
    InputError
        If there are fewer than two rows, more components are wanted than there are, or a number is NaN or
        infinite.
    """
    if data.ndim != 2 or len(data) < 2:
        raise InputError(f"PCA needs at least two rows of features, not an array of shape {data.shape}")
    check_count("PCA: components", components)
    if components > min(data.shape):
        raise InputError(
            f"PCA of {data.shape[0]} x {data.shape[1]} numbers has 1 to {min(data.shape)} components, "
            f"not {components}"
        )
    data = jnp.asarray(data, jnp.float32)
    if not jnp.isfinite(data).all():
        raise InputError("PCA needs finite numbers")
    mean = data.mean(axis=0)
    _, singular, rows = jnp.linalg.svd(data - mean, full_matrices=False)
    variance = jnp.square(singular) / (len(data) - 1)
    total = variance.sum()
    rows = rows[:components]
    largest = jnp.take_along_axis(rows, jnp.argmax(jnp.abs(rows), axis=1)[:, None], axis=1)
    rows = rows * jnp.where(largest < 0, -1.0, 1.0)
    variance = variance[:components]
    # Rows that are all the same have no variance, and no share of it.
    return PCA(mean, rows, variance, variance / jnp.where(total > 0, total, 1.0))
