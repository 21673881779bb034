"""How many cores there are to work with."""

import os


def usable() -> int:
    """The cores that this process may use: a job on a cluster has some of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity
