"""What compiled programs need, and the largest batch that fits."""

import mmap
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdef import memory
from srdef.errors import InputError

# Compiles a program twice as two processes would; the second time it comes from the cache.
CACHED = """
import jax, jax.numpy as jnp
from srdef import memory
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.rsplit("/", 1)[-1]))
jit = jax.jit(lambda x: jnp.tanh(x @ x.T) @ x)
print(memory.of_program(jit.lower(jnp.zeros((300, 200))).compile()), "cache_hits" in found)
"""


def device(platform="gpu", **stats):
    return SimpleNamespace(platform=platform, memory_stats=lambda: stats or None)


def test_a_program_needs_arguments_results_and_what_is_in_between():
    program = jax.jit(lambda x: jnp.sort(x @ x.T, axis=0)).lower(jnp.zeros((300, 200))).compile()
    need = memory.of_program(program)
    # At least what goes in and out; at most a few more arrays of the size of the product.
    assert 4 * (300 * 200 + 300 * 300) <= need <= 4 * (300 * 200 + 5 * 300 * 300)


def test_executables_from_the_cache_say_the_same(tmp_path):
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    said = [
        subprocess.run(
            [sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [hit for _, hit in said] == ["False", "True"]
    assert said[0][0] == said[1][0]
    assert int(said[0][0]) >= 4 * 2 * 300 * 200


@pytest.mark.parametrize(
    ("fixed", "slope", "room", "devices", "size"),
    [
        (0, 10, 645, 1, 64),
        (0, 10, 635, 1, 32),
        (500, 10, 645, 1, 8),
        (0, 10, 10**9, 1, memory.LARGEST_BATCH),
        (700, 10, 645, 1, 1),  # nothing fits: the run will say so
        (0, 10, 645, 8, 512),
    ],
)
def test_the_largest_batch_that_fits(fixed, slope, room, devices, size):
    def needs(images):
        assert images in (4 * devices, 8 * devices)
        return [fixed + slope * images // devices, 3 * images // devices]

    assert memory.largest_batch(needs, room, devices) == size


def test_of_no_program_the_size_is_that_of_a_cpu():
    assert memory.largest_batch(lambda size: [], 1e9) == memory.CPU_BATCH
    assert memory.largest_batch(lambda size: [0], 1e9) == memory.LARGEST_BATCH


def test_halves_that_fit():
    assert memory.smaller(20, 100, 100) == 20
    assert memory.smaller(20, 100, 50) == 10
    assert memory.smaller(20, 100, 27) == 5
    assert memory.smaller(24, 100, 60, devices=8) == 8
    assert memory.smaller(20, 100, 4) == 0


def test_arrays_that_several_networks_share_count_once():
    one, other = jnp.zeros(10), jnp.zeros(7)
    assert memory.of_arrays((one, {"a": one}), other, "static", 3.0) == 4 * 17


def test_the_limit_is_that_of_the_smallest_accelerator():
    assert memory.limit([device(bytes_limit=5), device(bytes_limit=3)]) == 3
    assert memory.limit([device(bytes_in_use=3)]) is None
    assert memory.limit([device()]) is None
    assert memory.limit([device("cpu", bytes_limit=5)]) is None


def test_what_this_process_holds():
    before = memory.resident()
    held = mmap.mmap(-1, 40_000_000)  # and nothing that was free in the heap
    np.frombuffer(held, np.uint8)[:] = 1
    assert memory.resident() - before > 0.9 * len(held)
    assert memory.peak() > 0.95 * memory.resident()


def test_the_limits_of_a_container_count(tmp_path):
    group = tmp_path / "cgroup" / "job" / "step"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    root = tmp_path / "cgroup"
    assert memory._free_in_container(own, root) is None
    for folder, most in ((group, "max"), (group.parent, "1000")):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    assert memory._free_in_container(own, root) == 350
    (group.parent / "memory.current").write_text("1100\n")
    assert memory._free_in_container(own, root) == 0
    assert memory._free_in_container(tmp_path / "missing", root) is None


@pytest.mark.parametrize(
    ("size", "words"),
    [(1.04e9, "1.0 GB"), (3.2e8, "0.3 GB"), (4.1e7, "41 MB"), (9e5, "less than 1 MB"), (1.2e10, "12.0 GB")],
)
def test_sizes_in_words(size, words):
    assert memory.in_words(size) == words


# A convolutional network whose gradients need a few hundred MB, and what an attack on it takes.
MEASURED = """
import sys
from pathlib import Path

import jax, numpy as np
from flax import nnx
from srdef import attacks, memory, victims
from srdef.attacks.compilation import precompile

class Network(nnx.Module):
    num_classes = 10

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.second = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        features = nnx.relu(self.second(nnx.relu(self.first(images))))
        return self.out(features.mean(axis=(1, 2)))

attack, victim = attacks.create(sys.argv[1]), victims.Undefended(Network(nnx.Rngs(0)))
if sys.argv[1] == "carlini_wagner":
    attack = attack.replace(max_iterations=3, binary_search_steps=1)
images = np.random.default_rng(0).random((96, 64, 64, 3), np.float32)
key = jax.random.key(0)
need = precompile(attack, victim, images.shape[1:], key=key, batch_size=48)
attacks.perturb(attack, victim, images[:48], np.zeros(48, int), key=key, batch_size=48)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory.resident()
attacks.perturb(attack, victim, images, np.zeros(96, int), key=key, batch_size=48)
status = Path("/proc/self/status").read_text().splitlines()
peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(need, peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory begins anew on Linux only")
@pytest.mark.parametrize("name", ["mifgsm", "carlini_wagner"])
def test_the_estimate_is_near_what_a_run_takes(name):
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, name], capture_output=True, text=True, check=True, timeout=570
    )
    need, grown = map(int, found.stdout.split())
    # Larger, as not everything is needed at once, and memory that was freed before is used again. Smaller by
    # no more than what convolutions need beside the arrays that the compiler plans.
    assert grown <= 1.25 * need
    assert need <= 5 * grown


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_only_what_is_more_than_all_there_is_can_never_fit(platform, monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 0)  # what is free now does not count
    devices = [device(platform, bytes_limit=500_000_000)] * 2
    room = memory.all_there_is(devices)
    if platform == "gpu":
        assert room == 1_000_000_000
    memory.refuse_impossible(room // 1000, 1000, devices)
    with pytest.raises(InputError, match=rf"^batch_size={room} can never fit: the images of one batch alone"):
        memory.refuse_impossible(room, 2, devices)


def test_what_is_unknown_refuses_nothing():
    memory.refuse_impossible(10**18, 10**6, [device("gpu")])
