"""Set-up shared by all tests: where optional data lies."""

import os
from pathlib import Path

import pytest


def data_path(variable: str) -> Path:
    """The path that environment variable `variable` names; skips the test when it is unset."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"set {variable} to run this test")
    path = Path(value)
    if not path.exists():
        pytest.fail(f"{variable} names {path}, which does not exist")
    return path


@pytest.fixture(scope="session")
def nips2017() -> Path:
    return data_path("SRDEF_NIPS2017")


@pytest.fixture(scope="session")
def sr_test() -> Path:
    return data_path("SRDEF_SR_TEST")


@pytest.fixture(scope="session")
def sr_weights() -> Path:
    return data_path("SRDEF_SR_WEIGHTS")


@pytest.fixture(scope="session")
def paper_demo() -> Path:
    return data_path("SRDEF_PAPER_DEMO")
