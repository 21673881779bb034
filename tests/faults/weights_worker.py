"""Read weights files in a process that may take little memory and time; prints a JSON line for each.

python weights_worker.py [--network] FILE...

`--network` loads those that have names into a small EDSR instead of only reading them. A file that takes
too long ends the process, as one does that crashes it: its name is then the last one on stderr.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from srdef.errors import InputError
from srdef.weights import readers

MEMORY = 1 << 30
SECONDS = 20
NETWORK = {"blocks": 1, "features": 4}


def read(path: Path) -> None:
    readers.read(path, needed=5000)


def load(path: Path) -> None:
    from srdef import models

    if path.suffix in (".h5", ".pkl"):
        read(path)
    else:
        models.create("edsr", weights=path, **NETWORK)


def bound_memory() -> None:
    """Allow `MEMORY` beyond what the interpreter and its libraries have mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak() -> int:
    """The most memory that the process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(function: Any, path: Path) -> dict[str, Any]:
    start, before = time.monotonic(), peak()
    try:
        function(path)
        kind, message = "loaded", ""
    except InputError as error:
        kind, message = "InputError", str(error)
    except BaseException as error:  # a panic of Rust is not even an Exception
        kind, message = type(error).__name__, str(error)
    return {
        "file": path.name,
        "outcome": kind,
        "message": message,
        "seconds": time.monotonic() - start,
        "memory": peak() - before,
    }


def main(arguments: list[str]) -> None:
    function = load if arguments[0] == "--network" else read
    files = [Path(argument) for argument in arguments if argument != "--network"]
    if function is load:
        from srdef import models

        models.create("edsr", **NETWORK)  # whatever JAX needs when it starts
    bound_memory()
    for path in files:
        print(path, file=sys.stderr, flush=True)
        signal.alarm(SECONDS)
        print(json.dumps(outcome(function, path)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
