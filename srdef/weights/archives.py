"""Read zip archives whose members are no larger than they say, and together no larger than expected."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from srdef.errors import InputError

_MAX_MEMBERS = 30_000
_SIGNATURE = b"PK\x01\x02"  # of each entry in an archive's directory


class Archive:
    """An archive in memory; make it with `open_archive`."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self._members = {member.filename: member for member in file.infolist()}
        self.names = list(self._members)

    def read(self, name: str) -> bytes:
        """A member; never more than the size that it declares, whatever is behind its compression."""
        member = self._members.get(name)
        if member is None:
            raise InputError(f"it lacks {name:.80}")
        with self._file.open(member) as file:
            # A size is given, as without one zipfile unpacks up to 2 GiB and throws away what is too much.
            data = file.read(member.file_size)
        if len(data) != member.file_size:
            raise InputError(f"{name:.80} has {len(data)} bytes, and declares {member.file_size}")
        return data


@contextmanager
def open_archive(data: bytes, limit: int, kind: str) -> Iterator[Archive]:
    """The archive in `data`.

    Parameters
    ----------
    data : bytes
        The whole file.
    limit : int
        Bytes that all members together may have.
    kind : str
        What the archive should be, for the error message (".npz archive").

    Raises
    ------
    InputError
        If it has too many members, larger ones, or a compression other than deflate.
    """
    if data.count(_SIGNATURE) > _MAX_MEMBERS:
        raise InputError(f"refused: an archive of more than {_MAX_MEMBERS} members")
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise InputError(f"damaged, or not an {kind}")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for member in file.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"refused: {member.filename:.80} is neither stored nor deflated")
            if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
                raise InputError(f"{member.filename:.80} is stored and declares two sizes")
        total = sum(member.file_size for member in file.infolist())
        if total > limit:
            raise InputError(
                f"refused: it declares {total} bytes of content, and at most {limit} are expected"
            )
        yield Archive(file)
