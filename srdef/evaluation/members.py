"""The processes of a run: process 0, and those that are connected to it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import TypeVar

from srdef import interrupts
from srdef.errors import InputError, printable
from srdef.evaluation.links import Link, Place, this_process
from srdef.evaluation.processes import Processes
from srdef.storage.memory import Store

T = TypeVar("T")

# Why a process has ended that may as well go on.
BROKEN, STOPPED = "its connection broke", "it was stopped"

CODE = 1  # the exit code of a process that ends because another one has ended


class Member(Processes):
    """One of several processes."""

    place: Place

    def __init__(self, place: Place, run: str) -> None:
        self.index, self.count = place.process, place.processes
        self.place, self._run = place, run
        self._stage = 0
        self._leaving = threading.Event()

    def join(self, limit: float) -> None:
        """Wait for the others until `limit` of the monotonic clock; InputError if they do not come."""
        raise NotImplementedError

    def take(self, stage: int, name: str, missing: Sequence[int]) -> int | None:
        """The number of a batch, or of other work, that this process does next; None if all are taken."""
        raise NotImplementedError

    def leave(self, reason: str | None) -> None:
        """Let go of the connections, after telling the others why, if this process has failed."""
        raise NotImplementedError

    def share(self, store: Store, missing: Sequence[slice]) -> Iterator[slice]:
        """As `Processes.share`; every process calls it for the same stores in the same order."""
        size = store.batch_size
        for batch in self._taken(store.path.name, [rows.start // size for rows in missing]):
            yield slice(batch * size, min((batch + 1) * size, store.count))

    def divide(self, name: str, count: int) -> Iterator[int]:
        """As `Processes.divide`, called by all in the same order too."""
        return self._taken(name, range(count))

    def _taken(self, name: str, numbers: Sequence[int]) -> Iterator[int]:
        self._stage += 1
        stage = self._stage
        while (number := self.take(stage, name, numbers)) is not None:
            yield number

    def _end(self, line: str) -> None:
        """End this process; called from the thread that has heard of another's end."""
        if not self._leaving.is_set():
            interrupts.leave(f"error: {printable(line)[:600]}", CODE)


def _ended(who: str, reason: str) -> str:
    """What the others say of a process; bad input, or a full disk, would end the same command once more."""
    first = "" if reason in (BROKEN, STOPPED) else "when that is mended, "
    return f"{who} has ended ({reason}); {first}the same command continues from here"


def _wait(ready: Callable[[], bool], limit: float, message: Callable[[], str]) -> None:
    """Wait until `ready()`; InputError with the message when the monotonic clock passes `limit`."""
    while not ready():
        interrupts.check()
        if time.monotonic() > limit:
            raise InputError(message())
        time.sleep(0.02)


def _next_of(answers: "queue.SimpleQueue[T]") -> T:
    """What process 0 says next."""
    while True:
        interrupts.check()
        with suppress(queue.Empty):
            return answers.get(timeout=0.2)


class Leader(Member):
    """Process 0, to which all others are connected."""

    def __init__(self, place: Place, run: str) -> None:
        super().__init__(place, run)
        self._links: dict[int, Link] = {}
        self._finished: set[int] = set()
        self._holds = False
        self._refused: str | None = None
        # Of each stage the name of its store, and the batches that nobody has taken yet.
        self._stages: dict[int, tuple[str, deque[int]]] = {}
        self._lock = threading.RLock()
        self._server = place.listen()
        threading.Thread(target=self._accept, name="processes", daemon=True).start()

    def join(self, limit: float) -> None:
        def absent() -> str:
            missing = ", ".join(str(index) for index in range(1, self.count) if index not in self._links)
            return f"process {missing} of {self.count} did not come to {self.place.coordinator}"

        _wait(lambda: self._refused is not None or len(self._links) == self.count - 1, limit, absent)
        if self._refused is not None:
            raise InputError(self._refused)

    @contextmanager
    def hold(self, workdir: Path) -> Iterator[None]:
        with super().hold(workdir):
            with self._lock:
                self._holds = True
                for link in self._links.values():
                    link.send(go=True)
            yield
            self.finish()  # nobody writes when the lock is let go

    def agree(self, decide: Callable[[], int]) -> int:
        number = decide()
        with self._lock:
            for link in self._links.values():
                link.send(agreed=number)
        return number

    def take(self, stage: int, name: str, missing: Sequence[int]) -> int | None:
        # Nobody writes to a store before asking here, so that the first to ask knows all that is missing.
        with self._lock:
            expected, left = self._stages.setdefault(stage, (name, deque(missing)))
            if expected != name:
                raise InputError(
                    f"processes compute different things, {expected} and {name}: the data, weights or code "
                    "of their machines differ"
                )
            return left.popleft() if left else None

    def finish(self) -> None:
        _wait(lambda: len(self._finished) == self.count - 1, float("inf"), str)

    def leave(self, reason: str | None) -> None:
        self._leaving.set()
        if reason is not None:
            self._tell(f"process 0 ({this_process()})", reason)
        with suppress(OSError):
            self._server.shutdown(SHUT_RDWR)  # or the thread that waits for others keeps it open
        self._server.close()
        with self._lock:
            for link in self._links.values():
                link.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the server is closed in the end
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket) -> None:
        """Answer one of the others until it leaves."""
        link = Link(connection)
        found = self._greet(link)
        if found is None:
            return
        index, who = found
        reason = BROKEN
        while (message := link.read()) is not None:
            if "finished" in message:
                self._finished.add(index)
                link.send(bye=True)
                return
            if "failed" in message:
                reason = str(message["failed"])
                break
            try:
                link.send(batch=self.take(message["stage"], message["store"], message.get("missing", ())))
            except InputError as error:
                link.send(who=f"process 0 ({this_process()})", failed=str(error))
                reason = str(error)
                break
        if not self._leaving.is_set():
            self._tell(who, reason, but=index)
            time.sleep(0.2)  # for the others to hear this before the connection ends
            self._end(_ended(who, reason))

    def _greet(self, link: Link) -> tuple[int, str] | None:
        """Number and name of a process that connects; None for whoever does not belong to this run."""
        hello = link.read_greeting()
        index = hello.get("index")
        if not isinstance(index, int) or index < 1:
            link.close()  # a stranger
            return None
        who = f"process {index} ({hello.get('where')})"
        with self._lock:
            if index in self._links or len(self._links) >= self.count - 1:
                link.send(refused=f"there is a process {index} of {self.count} already")
                link.close()
                return None
            if (hello.get("run"), hello.get("count")) != (self._run, self.count):
                self._refused = (
                    f"{who} is of another run: command, configuration, version and number of processes must "
                    "be the same"
                )
                link.send(refused=self._refused)
                link.close()
                return None
            self._links[index] = link
            link.send(welcome=True)
            if self._holds:
                link.send(go=True)
        return index, who

    def _tell(self, who: str, reason: str, but: int = 0) -> None:
        """Tell all others but one that a process has ended."""
        with self._lock:
            for index, link in self._links.items():
                if index != but:
                    link.send(who=who, failed=reason)


class Follower(Member):
    """A process that is connected to process 0."""

    def __init__(self, place: Place, run: str) -> None:
        super().__init__(place, run)
        self._link: Link | None = None
        self._welcome, self._go = threading.Event(), threading.Event()
        self._answers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._agreed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._asked = 0

    def join(self, limit: float) -> None:
        while self._link is None:
            interrupts.check()
            try:
                self._link = self.place.connect()
            except OSError as error:  # process 0 is not there yet
                if time.monotonic() > limit:
                    reason = error.strerror or error
                    raise InputError(f"no process 0 at {self.place.coordinator} ({reason})") from None
                time.sleep(0.1)
        self._link.send(index=self.index, count=self.count, run=self._run, where=this_process())
        threading.Thread(target=self._hear, args=(self._link,), name="processes", daemon=True).start()
        _wait(self._welcome.is_set, limit, lambda: f"no answer from process 0 at {self.place.coordinator}")

    @contextmanager
    def hold(self, workdir: Path) -> Iterator[None]:
        _wait(self._go.is_set, float("inf"), str)
        yield

    def take(self, stage: int, name: str, missing: Sequence[int]) -> int | None:
        assert self._link is not None
        if stage == self._asked:
            self._link.send(stage=stage, store=name)
        else:
            self._link.send(stage=stage, store=name, missing=list(missing))
        self._asked = stage
        return _next_of(self._answers)

    def agree(self, decide: Callable[[], int]) -> int:
        return _next_of(self._agreed)

    def finish(self) -> None:
        assert self._link is not None
        self._link.send(finished=True)
        _wait(self._leaving.is_set, float("inf"), str)

    def leave(self, reason: str | None) -> None:
        self._leaving.set()
        if self._link is not None:
            if reason is not None:
                self._link.send(failed=reason)
            self._link.close()

    def _hear(self, link: Link) -> None:
        """Read what process 0 says until it leaves."""
        while (message := link.read()) is not None:
            if "batch" in message:
                self._answers.put(message["batch"])
            elif "welcome" in message:
                self._welcome.set()
            elif "agreed" in message:
                self._agreed.put(message["agreed"])
            elif "go" in message:
                self._go.set()
            elif "bye" in message:
                self._leaving.set()
            elif "refused" in message:
                self._end(str(message["refused"]))
            else:
                self._end(_ended(str(message.get("who")), str(message.get("failed"))))
        self._end(_ended("process 0", BROKEN))
