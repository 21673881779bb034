"""Locks of the operating system, which are gone with the process however that ends."""

import errno
import fcntl
from pathlib import Path
from typing import IO, Any

from srdef.errors import InputError, warn

# What a lock fails with where there are none: Lustre without `-o flock`, some network and FUSE file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


def lock(file: IO[Any], folder: Path, *, wait: bool) -> bool:
    """Lock an open file in `folder` until it is closed; False, with a warning, where there are no locks.

    Raises
    ------
    BlockingIOError
        If another process holds it, and this one is not to wait.
    InputError
        If it fails otherwise.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # the latter over a network
            raise BlockingIOError(*error.args) from None
        if error.errno not in _NO_LOCKS:
            raise InputError(f"cannot lock {folder}: {error.strerror}") from None
        warn(
            f"the file system of {folder} has no locks ({error.strerror}): see to it that no other run "
            "writes there at the same time"
        )
        return False
    return True
