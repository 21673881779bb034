"""The checkpoints of a training, of which a damaged one is noticed and the one before taken."""

import hashlib
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp

from srdef.errors import InputError, warn
from srdef.storage.files import canonical_json, write_atomically
from srdef.storage.store import as_input_error

# Orbax mixes up the folders of two saves at the same time in threads of one process.
_saving = threading.Lock()


class Checkpoints:
    """The two newest checkpoints of the training in a folder, in `checkpoints/`; a context manager.

    `checkpoints.json` beside them has the hashes of their files: orbax reads some damaged files without a
    word, as other weights.

    Parameters
    ----------
    workdir : Path
    """

    def __init__(self, workdir: Path) -> None:
        self.folder = workdir / "checkpoints"
        self._hashes = workdir / "checkpoints.json"
        self._damaged: list[int] = []
        # Of several processes that train together the first keeps checkpoints: all have the same weights.
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=False, multiprocessing_options=alone)
        with as_input_error(f"cannot write a checkpoint to {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def any(self) -> bool:
        """Whether there is a checkpoint, damaged or not."""
        return bool(self._manager.all_steps())

    def restore(self, state: Any) -> tuple[int, Any]:
        """The newest checkpoint that is not damaged: its step and its state; 0 and `state` without any.

        A warning names the damaged ones that were passed over. They stay until the next `save`.

        Parameters
        ----------
        state : pytree
            With the structure, shapes and placement that the checkpoint's arrays are to have.

        Raises
        ------
        InputError
            If there are checkpoints, and all of them are damaged or of another state.
        """
        known = self._read_hashes()
        present = self._manager.all_steps()
        steps = sorted({*present, *known}, reverse=True) if present else []
        self._damaged = []
        reasons: list[str] = []
        for step in steps:
            reason = self._damage(step, known.get(step, {}))
            if not reason:
                try:
                    restored = self._manager.restore(step, args=ocp.args.StandardRestore(state))
                except Exception as error:  # orbax raises anything from KeyError to plain Exception
                    reason = _first_words(error)
                else:
                    for line in reasons:
                        warn(f"{line}; going on from the one of step {step}")
                    return step, restored
            reasons.append(f"the checkpoint of step {step} in {self.folder} cannot be used ({reason})")
            if step in present:
                self._damaged.append(step)
        if reasons:
            raise InputError(f"{reasons[0]}, and no other can: delete {self.folder} to train again")
        return 0, state

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint, and wait until it is on the disk; older ones than the one before it go.

        Raises
        ------
        InputError
            Names the folder, if it cannot be written: a full disk, no permission.
        """
        with _saving, as_input_error(f"cannot write a checkpoint to {self.folder}"):
            while self._damaged:  # orbax keeps those with the highest numbers
                self._manager.delete(self._damaged.pop())
            self._manager.save(step, args=ocp.args.StandardSave(state))
            self._manager.wait_until_finished()
        known = {
            kept: hashes for kept, hashes in self._read_hashes().items() if kept in self._manager.all_steps()
        }
        known[step] = {
            file.relative_to(self.folder).as_posix(): _sha256(file)
            for file in sorted((self.folder / str(step)).rglob("*"))
            if file.is_file()
        }
        text = {str(kept): hashes for kept, hashes in known.items()}
        write_atomically(self._hashes, canonical_json(text) + "\n")

    def _read_hashes(self) -> dict[int, dict[str, str]]:
        """By step, what `save` has noted; nothing of a damaged file, or without one (of an older srdef)."""
        try:
            kept = json.loads(self._hashes.read_bytes())
            found = {int(step): {str(n): str(sha) for n, sha in kept[step].items()} for step in kept}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            found = None
        if found is None or not all(found.values()):
            warn(f"{self._hashes} is damaged: whether the checkpoints are as they were written is not known")
        return found or {}

    def _damage(self, step: int, hashes: dict[str, str]) -> str:
        """What is wrong with the files of a checkpoint; empty if they are as they were written."""
        if not (self.folder / str(step)).is_dir():
            return "it is missing"
        for name, wanted in hashes.items():
            try:
                if _sha256(self.folder / name) != wanted:
                    return f"{name} is damaged"
            except OSError:
                return f"{name} is missing"
        return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _first_words(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 150 else f"{words[:150]}..."
