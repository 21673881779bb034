"""The folder in which srdef keeps what it has fetched and compiled, from one process to the next."""

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

from srdef import cores
from srdef.errors import InputError
from srdef.paths import expanded

# Set by `keep_programs`, or by whoever runs srdef: JAX reads them when it is imported.
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_MINIMUM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

# What threads are called that compile programs ahead, and how many there are at most: more need more memory.
COMPILERS = "compile"
MOST_COMPILERS = 12

# Above this many bytes the programs that were read longest ago are removed.
LARGEST = 4 * 1024**3


def folder() -> Path:
    """The folder `$SRDEF_CACHE`, or srdef's place in the user's cache folder (`pooch.os_cache`)."""
    import pooch  # here, as it takes a while, and a command hears Ctrl-C first

    chosen = os.environ.get("SRDEF_CACHE", "")
    return expanded(pooch.os_cache("srdef") if chosen in ("", "off") else chosen)


def keep_programs() -> None:
    """Let JAX keep compiled programs in `folder() / "jax"`, so that the next process need not compile them.

    Programs are found by a hash of their code, the versions of JAX and XLA, the flags and the kind of device;
    results are the same, bit for bit. `SRDEF_CACHE=off` leaves it off, and a folder that the environment
    variable JAX_COMPILATION_CACHE_DIR names is kept. A folder that cannot be written to is no error: then
    everything is compiled.
    """
    if os.environ.get("SRDEF_CACHE") == "off":
        return
    if _FOLDER not in os.environ:
        try:
            programs = folder() / "jax"
            programs.mkdir(parents=True, exist_ok=True)
        except (OSError, InputError):
            return
        _make_room(programs)
        os.environ[_FOLDER] = str(programs)
    # Also programs that compile fast: there are hundreds of them.
    os.environ.setdefault(_MINIMUM, "0")
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_compilation_cache_dir", os.environ[_FOLDER])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(os.environ[_MINIMUM]))


def write_programs_whole() -> None:
    """Let JAX write a compiled program to a file of another name first, and then rename it.

    JAX writes in place, so that another process may read half a program, and one that is killed leaves such a
    half for good: a warning in every later process, which compiles it again. There is no public way to change
    that; a JAX without this class keeps its own.
    """
    try:
        from jax._src.lru_cache import _CACHE_SUFFIX, LRUCache
    except ImportError:
        return
    original = LRUCache.put

    def put(self: Any, key: str, value: bytes) -> None:
        place = os.fspath(self.path)
        if self.eviction_enabled or "://" in place:  # not a folder of this machine, or with a lock of its own
            original(self, key, value)
            return
        folder = Path(place)
        file = folder / f"{key}{_CACHE_SUFFIX}"
        if file.exists():
            return
        part = folder / f"{key}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            part.write_bytes(value)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)

    if original.__module__ != __name__:  # else it has been replaced already
        LRUCache.put = put  # type: ignore[method-assign]


def compiler_count() -> int:
    """How many threads compile programs ahead: one for each core that this process may use but one."""
    return min(max(cores.usable() - 1, 1), MOST_COMPILERS)


def _make_room(programs: Path) -> None:
    """Remove the programs that were read longest ago, down to half of `LARGEST`, if there are more."""
    found = []
    for file in programs.iterdir():
        with contextlib.suppress(OSError):  # another process may have removed it
            found.append((file.stat().st_atime, file.stat().st_size, file))
    total = sum(size for _, size, _ in found)
    if total <= LARGEST:
        return
    for _, size, file in sorted(found):
        with contextlib.suppress(OSError):
            file.unlink()
        total -= size
        if total <= LARGEST / 2:
            return
