"""Memory in pages of 2 MB, which Linux gives to those who ask.

XLA takes the arrays of a CPU from malloc, in fresh pages of 4 kB for every step: with larger ones the
gradient of a network takes about a fifth less time. glibc asks for them if GLIBC_TUNABLES has
glibc.malloc.hugetlb=1, which it reads at the start of a process alone.
"""

import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
NAME = "glibc.malloc.hugetlb"
# Where Linux says to whom it gives them: "always [madvise] never". Those who get them unasked need not ask.
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart() -> None:
    """Start this process once more, with the same command, with huge pages; or return.

    It returns where that would change nothing: no glibc of 2.35 or newer, a Linux that gives such pages to
    all or to nobody, or a `GLIBC_TUNABLES` that says what is wanted, as `glibc.malloc.hugetlb=0` does too.
    """
    tunables = os.environ.get(TUNABLES, "")
    script = sys.argv[0] if sys.argv else ""
    if NAME in tunables or script in ("", "-") or not _would_help():  # "" and "-" came over standard input
        return
    environment = {**os.environ, TUNABLES: ":".join(filter(None, [tunables, f"{NAME}=1"]))}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:
        return


def _would_help() -> bool:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        recent = tuple(map(int, version.split(".")[:2])) >= (2, 35)
        return name == "glibc" and recent and "[madvise]" in POLICY.read_text(encoding="utf-8")
    except (AttributeError, OSError, ValueError):  # not Linux, or not glibc
        return False
