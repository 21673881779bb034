"""The folder of compiled programs: what a second process finds there, and how to leave it off."""

import os
import subprocess
import sys

import pytest

from srdef import cache

# Compiles a program, and prints whether it was compiled or loaded, and the bytes of its result.
PROGRAM = """
from srdef import cache
cache.keep_programs()
import jax, jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.rsplit("/", 1)[-1]))
result = jax.jit(lambda x: jnp.tanh(x @ x.T).sum(axis=0))(jnp.linspace(0, 1, 600).reshape(20, 30))
print("hits", found.count("cache_hits"), "misses", found.count("cache_misses"), bytes(result).hex())
"""


def run(**variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **variables}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    _, hits, _, misses, result = process.stdout.split()
    return int(hits), int(misses), result


def test_a_second_process_loads_what_the_first_has_compiled(tmp_path):
    first = run(SRDEF_CACHE=str(tmp_path))
    second = run(SRDEF_CACHE=str(tmp_path))
    assert first[:2] == (0, first[1])
    assert first[1] > 0
    assert second[:2] == (first[1], 0)
    assert second[2] == first[2]
    assert run(SRDEF_CACHE="off")[2] == first[2]


def test_a_program_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    from jax._src.lru_cache import LRUCache

    monkeypatch.setattr(LRUCache, "put", LRUCache.put)  # put back at the end
    cache.write_programs_whole()
    cache.write_programs_whole()
    kept = LRUCache(str(tmp_path), max_size=-1)
    kept.put("program", b"whole")
    assert kept.get("program") == b"whole"
    kept.put("program", b"another")  # as JAX has it: the first stays
    assert kept.get("program") == b"whole"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        kept.put("other", b"half")
    assert kept.get("other") is None
    assert [path.name for path in tmp_path.iterdir()] == ["program-cache"]


def test_commands_write_programs_whole():
    script = (
        "from srdef.command import main; main(['report', '--nowhere']);"
        "from jax._src.lru_cache import LRUCache; print(LRUCache.put.__module__)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.split()[-1] == "srdef.cache"


def test_it_can_be_left_off_and_sent_elsewhere(tmp_path):
    assert run(SRDEF_CACHE="off")[:2] == (0, 0)
    run(SRDEF_CACHE=str(tmp_path / "srdef"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    hits, _, _ = run(SRDEF_CACHE=str(tmp_path / "file"))
    assert hits == 0


@pytest.mark.parametrize(("largest", "left"), [(40, {2, 3}), (60, {0, 1, 2, 3, 4, 5})])
def test_programs_that_were_read_longest_ago_make_room(tmp_path, monkeypatch, largest, left):
    for number, age in enumerate([50, 40, 1, 2, 30, 20]):
        file = tmp_path / f"{number}"
        file.write_bytes(bytes(10))
        os.utime(file, (1e9 - age, 1e9))
    monkeypatch.setattr(cache, "LARGEST", largest)
    cache._make_room(tmp_path)
    assert {int(path.name) for path in tmp_path.iterdir()} == left


def test_weights_stay_where_they_are_when_it_is_off(monkeypatch, tmp_path):
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path))
    assert cache.folder() == tmp_path
    monkeypatch.delenv("SRDEF_CACHE")
    usual = cache.folder()
    monkeypatch.setenv("SRDEF_CACHE", "off")
    assert cache.folder() == usual


def test_a_core_is_left_to_the_run(monkeypatch):
    for cores, wanted in ((1, 1), (2, 1), (8, 7), (64, cache.MOST_COMPILERS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert cache.compiler_count() == wanted
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cache.compiler_count() == 4
