"""Set-up shared by all tests: where optional data lies, and what was compiled before."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from srdef import cache

# Tests run side by side: several threads of PyTorch in each would mostly wait for one another (also below).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Most of the tests' time is compilation: what one test, worker, script or checkout has compiled the others
# load, now and in the next run.
cache.keep_programs()

# A background process ignores Ctrl-C, and so would all that tests start: some of them send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def whole_programs() -> None:
    """Or one worker reads what another one has written half."""
    cache.write_programs_whole()


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> None:
    """What builds networks for a benchmark sets as many as there are cores."""
    if (torch := sys.modules.get("torch")) and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def let_go_of_programs() -> Iterator[None]:
    """At the end of each module; kept, they fill several GB by the end of all tests."""
    yield
    _clear()


@pytest.fixture(autouse=True)
def let_go_in_time() -> Iterator[None]:
    """Before those of one module take all 65530 pieces that Linux lets a process map, where XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        _clear()


def _clear() -> None:
    import jax  # here, as it reads the variables above when it is imported

    jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh for each test: what a test draws must not depend on the tests that ran before it."""
    return np.random.default_rng(0)


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
