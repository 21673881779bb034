"""Small weights files that would take much memory or time if a reader believed them, by name."""

import io
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

UNPACKED = 1 << 28


def huge_memo(path: Path) -> None:
    """LONG_BINPUT at 268 million: a reader in C reserves a memo of that length."""
    path.write_bytes(b"N" + b"r" + struct.pack("<I", 1 << 28) + b"0N.")


def nested_tuples(path: Path) -> None:
    """Nearly a million tuples in one another: hashed or compared, they overflow the stack."""
    path.write_bytes(b"})" + b"\x85" * 900_000 + b"Ns.")


def shared_tuples(path: Path) -> None:
    """Sixty levels of a tuple that has the one before twice, as a key: 2⁶⁰ steps to hash."""
    levels = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
    path.write_bytes(b"})q\x000" + levels + b"h%cNs." % 60)


def many_instructions(path: Path) -> None:
    path.write_bytes(b"]" * 5_000_000 + b".")


def self_containing(path: Path) -> None:
    """A dictionary that has itself under `model`."""
    path.write_bytes(b"}q\x00X\x05\x00\x00\x00modelh\x00s.")


def huge_numbers(path: Path) -> None:
    """An array whose shape is a tuple and a billion: their product is a tuple of a billion elements."""
    shape = b"((I1\nI1\ntI1000000000\nt"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
    dtype = b"cnumpy\ndtype\n(Vf4\nI0\nI1\ntR"
    path.write_bytes(b"(Va\n" + array + b"(I1\n" + shape + dtype + b"I00\nC\x00tbd.")


def zip_member(method: int) -> Callable[[Path], None]:
    """A storage of a quarter of a gigabyte of zeros, packed into little, beside a right pickle."""

    def write(path: Path) -> None:
        storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQ" % (UNPACKED // 4)
        tensor = b"(Va\nctorch._utils\n_rebuild_tensor_v2\n(%bI0\n(I2\nt(I1\ntI00\nNtRd." % storage
        with zipfile.ZipFile(path, "w", method, compresslevel=9) as archive:
            archive.writestr("a/data.pkl", tensor)
            with archive.open("a/data/0", "w") as member:
                for _ in range(UNPACKED >> 24):
                    member.write(bytes(1 << 24))

    return write


def lying_member(path: Path) -> None:
    """A member that declares 100 bytes and unpacks to a quarter of a gigabyte."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("a/data.pkl", "w") as member,
    ):
        for _ in range(UNPACKED >> 24):
            member.write(bytes(1 << 24))
    path.write_bytes(packed.getvalue().replace(struct.pack("<I", UNPACKED), struct.pack("<I", 100)))


def npz(path: Path) -> None:
    """Deflated zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f4", "fortran_order": False, "shape": (UNPACKED // 4,)}
        )
        for _ in range(UNPACKED >> 24):
            member.write(bytes(1 << 24))


def npy_header(path: Path) -> None:
    """An array of 8 TB, of which there is nothing."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue())


def _keras(path: Path, **options: object) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.asarray([b"a"])
        group = file.create_group("a")
        group.attrs["weight_names"] = np.asarray([b"w"])
        group.create_dataset("w", dtype="f4", **options)


def unwritten(path: Path) -> None:
    """An array of 7.8 GB that was declared and never written."""
    _keras(path, shape=(1_950_000_000,))


def unwritten_chunks(path: Path) -> None:
    _keras(path, shape=(1_950_000_000,), chunks=(1 << 20,))


def compressed_chunks(path: Path) -> None:
    """A quarter of a gigabyte of zeros, in chunks that are all written."""
    _keras(path, shape=(0,), maxshape=(None,), chunks=(1 << 24,), compression="gzip")
    with h5py.File(path, "r+") as file:
        array = file["a/w"]
        array.resize((UNPACKED // 4,))
        packed = zlib.compress(bytes(1 << 26), 9)
        for start in range(0, UNPACKED // 4, 1 << 24):
            array.id.write_direct_chunk((start,), packed)


def lying_chunk(path: Path) -> None:
    """A chunk of 4 bytes that unpacks to a quarter of a gigabyte."""
    _keras(path, shape=(1,), chunks=(1,), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["a/w"].id.write_direct_chunk((0,), zlib.compress(bytes(UNPACKED), 1))


def large_chunk(path: Path) -> None:
    """One value in a chunk of 4 GB."""
    _keras(path, shape=(1,), maxshape=(None,), chunks=(1 << 29,))


def shared_names(path: Path) -> None:
    """A list of 1000 names, each of which is the same megabyte of the file."""
    with h5py.File(path, "w") as file:
        file.attrs.create("layer_names", ["x" * (1 << 20), *["y"] * 999], dtype=h5py.string_dtype())
    data = path.read_bytes()
    # Each name in the attribute: its length, the collection of strings that it is in, its number there.
    start = max(found.start() for found in re.finditer(re.escape(struct.pack("<I", 1 << 20)), data))
    path.write_bytes(data[:start] + data[start : start + 16] * 1000 + data[start + 16 * 1000 :])


def long_way(path: Path) -> None:
    """A name that goes through a group half a million times."""
    with h5py.File(path, "w") as file:
        file["a"] = file
        file.attrs["layer_names"] = np.asarray([b"/".join([b"a"] * 30_000)])


def safetensors_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(40_000):
            archive.writestr(f"{i}.npy", b"")


def wide_pickle(path: Path) -> None:
    """What `pickle` itself writes of half a million lists."""
    path.write_bytes(pickle.dumps({"a": [[] for _ in range(1_000_000)]}))


BOMBS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "huge memo": (".pkl", huge_memo, "holds a NoneType"),
    "huge memo in a legacy file": (".pth", huge_memo, "weights file"),
    "nested tuples": (".pkl", nested_tuples, "refused: a tuple as the key of a dictionary"),
    "shared tuples": (".pkl", shared_tuples, "refused: a tuple as the key of a dictionary"),
    "many instructions": (".pkl", many_instructions, "refused: a pickle of more than 1000000 instructions"),
    "wide pickle": (".pkl", wide_pickle, "refused: a pickle of more than 1000000 instructions"),
    "self-containing": (".pkl", self_containing, "refused: dictionaries nested more than 8 deep"),
    "huge numbers": (".pkl", huge_numbers, "impossible shape of an array"),
    "deflated": (".pth", zip_member(zipfile.ZIP_DEFLATED), r"refused: it declares 2684\d+ bytes"),
    "lzma": (".pth", zip_member(zipfile.ZIP_LZMA), "refused: a/data.pkl is neither stored nor deflated"),
    "lying member": (".pth", lying_member, "damaged"),
    "npz": (".npz", npz, r"refused: it declares 2684\d+ bytes"),
    "npy header": (".npz", npy_header, r"a\.npy declares the shape \(1099511627776,\), and has 0 bytes"),
    "many members": (".npz", many_members, "refused: an archive of more than 30000 members"),
    "unwritten": (".h5", unwritten, "w declares 7800000000 bytes, and the file has 0"),
    "unwritten chunks": (".h5", unwritten_chunks, "w declares 7800000000 bytes, and the file has 0"),
    "compressed chunks": (".h5", compressed_chunks, "refused: w is compressed"),
    "lying chunk": (".h5", lying_chunk, "refused: w is compressed"),
    "large chunk": (".h5", large_chunk, "w declares 4 bytes, and the file has 0"),
    "shared names": (".h5", shared_names, "refused: layer_names declares more than"),
    "long way": (".h5", long_way, "refused: a name of more than 16 parts"),
    "safetensors header": (".safetensors", safetensors_header, "refused: a header of more than"),
}
