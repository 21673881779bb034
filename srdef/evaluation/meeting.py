"""Several processes meet, share the batches of a run, and end together when one of them dies.

They need to know only three things of one another: that all are there, who takes which batch, and that one
has died. They say so over a TCP connection from each process to process 0, at the address that launchers hand
out. It is open to whoever reaches the port, who learns nothing there but the numbers of batches.

`jax.distributed` finds out who is who (see `srdef.commands.processes`), but is not initialized. It would make
one mesh of the devices of all processes, which nothing here uses, and when a process dies it ends the others
by an abort with a long log, after 100 seconds. Files in the workdir would need clocks and time limits, as
network file systems show a change up to a minute late, and would leave remains of earlier runs to be told
apart. A connection breaks at once when a process is killed, and within `links.SILENCE` seconds when its
machine or the network is gone.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from srdef.errors import InputError
from srdef.evaluation.links import Place
from srdef.evaluation.members import STOPPED, Follower, Leader
from srdef.evaluation.processes import Processes

# How long processes wait for one another at the start, in seconds: launchers do not start them at once.
PATIENCE = 300.0


@contextmanager
def meet(place: Place, run: str, patience: float | None = None) -> Iterator[Processes]:
    """Wait until all processes are there, and stay in touch until the block ends.

    When another process dies, this one prints one line and ends with exit code `members.CODE`, in the middle
    of whatever it does: the store holds every batch that was finished.

    Parameters
    ----------
    place : Place
    run : str
        What all processes must have in common: a digest of the command and its configuration.
    patience : float, optional
        How long to wait for the others, in seconds; default: `PATIENCE`.

    Yields
    ------
    Processes

    Raises
    ------
    InputError
        If the others do not come, or do another run, or the address cannot be used.
    """
    limit = time.monotonic() + (PATIENCE if patience is None else patience)
    member = Follower(place, run) if place.process else Leader(place, run)
    try:
        member.join(limit)
        yield member
        member.finish()
    except BaseException as error:
        member.leave(_reason(error))
        raise
    member.leave(None)


def _reason(error: BaseException) -> str:
    """Why a process ends, in one line for the others."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
