"""Who is started once more with huge pages, and who is not."""

import os
import subprocess
import sys

import pytest

from srdef import huge_pages

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Where Linux asks to be asked: what was started, if anything was."""
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "POLICY", policy)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    monkeypatch.setattr(sys, "argv", ["/bin/srdef", "evaluate"])
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-X", "dev", "/bin/srdef", "evaluate", "--config.seed=1"]
    )
    monkeypatch.delenv(huge_pages.TUNABLES, raising=False)
    found = []
    monkeypatch.setattr(os, "execve", lambda *what: found.append(what))
    return found


def test_the_same_command_starts_once_more(started, monkeypatch):
    huge_pages.restart()
    ((path, arguments, environment),) = started
    assert path == sys.executable
    assert arguments == [sys.executable, "-X", "dev", "/bin/srdef", "evaluate", "--config.seed=1"]
    assert environment == {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    huge_pages.restart()
    assert len(started) == 1


def test_other_tunables_stay(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")
    huge_pages.restart()
    assert started[0][2]["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=4:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("libc", ["glibc 2.34", "musl", "", None])
def test_another_library_is_left_alone(started, monkeypatch, libc):
    monkeypatch.setattr(os, "confstr", lambda name: libc)
    huge_pages.restart()
    assert not started


@pytest.mark.parametrize("policy", ["[always] madvise never", "always madvise [never]", None])
def test_where_asking_changes_nothing_nobody_asks(started, policy):
    if policy is None:
        huge_pages.POLICY.unlink()
    else:
        huge_pages.POLICY.write_text(policy)
    huge_pages.restart()
    assert not started


def test_who_says_no_is_heard(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages.restart()
    assert not started


@pytest.mark.parametrize("script", ["", "-"])
def test_a_program_from_standard_input_cannot_be_read_twice(started, monkeypatch, script):
    monkeypatch.setattr(sys, "argv", [script, "evaluate"])
    huge_pages.restart()
    assert not started


def test_a_start_that_fails_leaves_the_process_as_it_is(started, monkeypatch):
    def fail(*what):
        raise PermissionError

    monkeypatch.setattr(os, "execve", fail)
    huge_pages.restart()


@pytest.mark.skipif(
    not huge_pages._would_help(), reason="this machine gives huge pages unasked, or not at all"
)
def test_a_command_runs_with_them(tmp_path):
    (tmp_path / "says.py").write_text(
        "import os\nfrom srdef.errors import InputError\n\n\n"
        "def get_config():\n    raise InputError(f'tunables: {os.environ.get(\"GLIBC_TUNABLES\")}')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    words = [sys.executable, "-m", "srdef", "evaluate", f"--config={tmp_path / 'says.py'}"]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tunables: glibc.malloc.hugetlb=1" in done.stderr
