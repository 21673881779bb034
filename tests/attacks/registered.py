"""The attacks of the registry, for tests that all of them have to pass."""

import pytest

# Each has the loop of another attack, of which it changes a part; `make test-slow` runs these too.
DERIVED = (
    # Of `vnifgsm`, which has all their parts.
    *("mifgsm", "nifgsm", "sinifgsm", "tifgsm", "vmifgsm", "admix", "ssa", "mdi2fgsm"),
    # Of `apgd`, `fab_t`, `gaussian_blur` and `uniform_noise`.
    *("apgd_t", "fab", "contrast_reduction", "gaussian_noise"),
    # Of any attack with an ε.
    "minimal_epsilon",
)


def every(names):
    """The names as parameters of a test, those of derived attacks among the slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in DERIVED else name for name in names]
