"""PCA against scikit-learn, and against its definition."""

import numpy as np
import pytest
from sklearn.decomposition import PCA as Reference

from srdef.errors import InputError
from srdef.interpret import pca


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_equals_scikit_learn(shape):
    rng = np.random.default_rng(0)
    # A falling spectrum, as features have: each direction is then well defined.
    data = (rng.normal(size=shape) * 0.7 ** np.arange(shape[1]) + 3).astype(np.float32)
    ours, theirs = pca.fit(data, 4), Reference(4, svd_solver="full").fit(data.astype(np.float64))
    # float32 against float64; entries of the components are at most 1.
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-6)
    np.testing.assert_allclose(ours.components, theirs.components_, atol=2e-5)
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(ours.transform(data), theirs.transform(data), atol=1e-4)


def test_all_components_give_the_data_back():
    data = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    model = pca.fit(data, 5)
    np.testing.assert_allclose(model.inverse_transform(model.transform(data)), data, atol=1e-5)
    np.testing.assert_allclose(model.explained_variance_ratio.sum(), 1, rtol=1e-6)


def test_signs_do_not_depend_on_the_signs_of_the_data():
    data = np.random.default_rng(2).normal(size=(20, 6)).astype(np.float32)
    np.testing.assert_allclose(pca.fit(data, 3).components, pca.fit(-data, 3).components, atol=1e-5)


def test_rows_without_variance():
    model = pca.fit(np.ones((4, 3), np.float32), 2)
    assert np.all(np.asarray(model.explained_variance_ratio) == 0)


@pytest.mark.parametrize(
    ("shape", "components"), [((1, 5), 1), ((4, 5), 5), ((4, 5), 0), ((4,), 1), ((4, 5), 1.5), ((4, 5), True)]
)
def test_refuses_what_has_no_such_components(shape, components):
    with pytest.raises(InputError, match="PCA"):
        pca.fit(np.zeros(shape, np.float32), components)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_numbers_that_are_not_finite(bad):
    data = np.ones((4, 5), np.float32)
    data[2, 3] = bad
    with pytest.raises(InputError, match="PCA needs finite numbers"):
        pca.fit(data, 2)
