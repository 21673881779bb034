import dataclasses
import errno
import hashlib
import http.server
import inspect
import os
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from srdef import models
from srdef.errors import InputError, SrdefWarning
from srdef.weights import catalog, download, loading, readers


class Server:
    """A file server on loopback that can misbehave; it keeps the headers of each request."""

    def __init__(self):
        self.files = {}
        self.status = 200
        self.first_statuses = []  # instead of the first answers
        self.ranges = True
        self.break_off_after = []  # for each request, how many bytes to send before hanging up
        self.requests = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                server.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def answer(self, handler):
        self.requests.append(handler.headers.get("Range"))
        data = self.files.get(handler.path.removeprefix("/"))
        if self.first_statuses or self.status != 200 or data is None:
            status = self.first_statuses.pop(0) if self.first_statuses else self.status
            handler.send_error(404 if status == 200 else status)
            return
        start = 0
        if self.ranges and (match := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))):
            start = int(match[1])
            if start >= len(data):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        end = start + self.break_off_after.pop(0) if self.break_off_after else len(data)
        handler.wfile.write(data[start:end])


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses between attempts, in seconds; nobody waits for them."""
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def entry(server):
    data = np.random.default_rng(0).bytes(3 * download.CHUNK + 17)
    server.files["weights.h5"] = data
    return catalog.Download(
        name="inception_v3",
        variant="test",
        url=server.url("weights.h5"),
        digest=f"md5:{hashlib.md5(data).hexdigest()}",
        size=len(data),
        licence="none",
        origin="random numbers",
    )


def files(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_fetches_once(server, entry, cache):
    path = download.fetch(entry)
    assert path == cache / "weights.h5"
    assert path.read_bytes() == server.files["weights.h5"]
    assert download.fetch(entry) == path
    assert len(server.requests) == 1
    assert files(cache) == ["weights.h5"]


def test_a_cache_on_a_file_system_without_locks(server, entry, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(SrdefWarning, match="has no locks .Function not implemented.: see to it"):
        assert download.fetch(entry).read_bytes() == server.files["weights.h5"]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_digest_may_be_the_first_digits(server, entry, algorithm):
    digits = hashlib.new(algorithm, server.files["weights.h5"]).hexdigest()[:8]
    assert download.fetch(dataclasses.replace(entry, digest=f"{algorithm}:{digits}")).is_file()


def test_continues_where_it_broke_off(server, entry):
    """The server hangs up twice; each request asks for what is missing."""
    server.break_off_after = [download.CHUNK + 5, 7]
    path = download.fetch(entry)
    assert path.read_bytes() == server.files["weights.h5"]
    assert server.requests == ["bytes=0-", f"bytes={download.CHUNK + 5}-", f"bytes={download.CHUNK + 12}-"]


def test_a_later_run_continues(server, entry, cache):
    server.break_off_after = [100] * download.ATTEMPTS
    with pytest.raises(
        InputError, match=r"broke off after 300 of \d+ bytes; the same command continues there"
    ):
        download.fetch(entry)
    assert files(cache) == [".weights.h5.part"]
    path = download.fetch(entry)
    assert server.requests[-1] == "bytes=300-"
    assert path.read_bytes() == server.files["weights.h5"]
    assert files(cache) == ["weights.h5"]


def test_a_server_that_cannot_continue_sends_the_whole_file(server, entry):
    server.ranges = False
    server.break_off_after = [download.CHUNK + 5]
    assert download.fetch(entry).read_bytes() == server.files["weights.h5"]


def test_a_complete_but_unverified_part_is_used(server, entry, cache):
    """Killed between the last byte and the renaming."""
    cache.mkdir()
    (cache / ".weights.h5.part").write_bytes(server.files["weights.h5"])
    assert download.fetch(entry).read_bytes() == server.files["weights.h5"]


def test_a_wrong_hash_leaves_nothing_and_can_be_repaired(server, entry, cache):
    right = server.files["weights.h5"]
    server.files["weights.h5"] = b"an error page"
    with pytest.raises(InputError, match=r"13 bytes with the MD5 \w+, expected \w+.*by hand"):
        download.fetch(entry)
    assert files(cache) == []
    server.files["weights.h5"] = right
    assert download.fetch(entry).read_bytes() == right


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (503, "Service Unavailable")])
def test_a_server_error(server, entry, cache, status, reason):
    server.status = status
    with pytest.raises(InputError) as error:
        download.fetch(entry)
    assert str(error.value) == (
        f"weights of inception_v3: the server answered {status} {reason}; "
        f"or fetch {entry.url} by hand and put it at {cache / 'weights.h5'}"
    )
    assert files(cache) == []


def test_a_server_in_passing_trouble_is_asked_again(server, entry, pauses):
    server.first_statuses = [503, 502]
    assert download.fetch(entry).read_bytes() == server.files["weights.h5"]
    assert pauses == [1, 2]


def test_no_network(entry, cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    entry = dataclasses.replace(entry, url=f"http://127.0.0.1:{port}/weights.h5")
    with pytest.raises(InputError) as error:
        download.fetch(entry)
    message = str(error.value)
    assert "no connection" in message
    assert f"fetch {entry.url} by hand and put it at {cache / 'weights.h5'}" in message
    assert "\n" not in message


def test_a_file_put_there_by_hand(server, entry, cache):
    cache.mkdir()
    (cache / "weights.h5").write_bytes(server.files["weights.h5"])
    assert download.fetch(entry) == cache / "weights.h5"
    assert server.requests == []
    (cache / "weights.h5").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"weights\.h5: 14 bytes with the MD5") as error:
        download.fetch(entry)
    assert f"fetch {entry.url} by hand and put it at {cache / 'weights.h5'}" in str(error.value)
    assert "\n" not in str(error.value)
    assert (cache / "weights.h5").read_bytes() == b"something else"  # never deleted: it is the user's


def test_a_cache_that_cannot_be_made(entry, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="cannot make the cache folder"):
        download.fetch(entry)


def test_two_at_once_fetch_once(server, entry):
    results = []
    threads = [threading.Thread(target=lambda: results.append(download.fetch(entry))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(server.requests) == 1


def test_the_default_cache_folder(monkeypatch):
    monkeypatch.delenv("SRDEF_CACHE")
    assert download.cache_folder().name == "srdef"
    assert download.cache_folder().is_absolute()


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A small EDSR with the official names under a test hash, in the catalogue."""
    network = models.create("edsr_small_x2", seed=3)
    path = tmp_path / "published.pt"
    torch.save(official_names(network), path)
    server.files["edsr_small_x2.pt"] = path.read_bytes()
    entry = catalog.Download(
        name="edsr_small_x2",
        variant="official",
        url=server.url("edsr_small_x2.pt"),
        digest=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}",
        size=None,
        licence="none",
        origin="random numbers",
    )
    monkeypatch.setattr(catalog, "DOWNLOADS", (entry,))
    return network, entry


def official_names(network):
    """The tensors under the names and with the axes of the official PyTorch code."""
    names = {
        "head": "head.0",
        "body_end": f"body.{len(network.blocks)}",
        "upsample.0": "tail.0.0",
        "tail": "tail.1",
    }
    for i in range(len(network.blocks)):
        names |= {f"blocks.{i}.conv1": f"body.{i}.body.0", f"blocks.{i}.conv2": f"body.{i}.body.2"}
    tensors = {}
    for name, array in loading.flatten(network).items():
        layer, part = name.rsplit(".", 1)
        array = array.transpose(3, 2, 0, 1) if part == "kernel" else array
        tensors[f"{names[layer]}.{'weight' if part == 'kernel' else 'bias'}"] = torch.tensor(np.array(array))
    return tensors


def test_create_downloads_and_converts_once(server, published, cache):
    network, entry = published
    for _ in range(2):
        loaded = models.create("edsr_small_x2", weights="official")
        for name, array in loading.flatten(network).items():
            np.testing.assert_array_equal(loading.flatten(loaded)[name], array)
    assert len(server.requests) == 1
    digits = entry.digest.split(":")[1]
    assert files(cache) == [f"edsr_small_x2-official-{digits}.safetensors", "edsr_small_x2.pt"]
    # What was converted is enough: the published file may go.
    (cache / "edsr_small_x2.pt").unlink()
    models.create("edsr_small_x2", weights="official")
    assert len(server.requests) == 1


def test_create_names_the_address_when_there_is_no_network(cache, monkeypatch):
    """What a user of a machine without network sees, with the real catalogue's file name."""
    entry = catalog.entry("inception_v3")
    monkeypatch.setattr(
        catalog, "DOWNLOADS", (dataclasses.replace(entry, url=f"http://127.0.0.1:9/{entry.file}"),)
    )
    with pytest.raises(InputError, match="by hand and put it at") as error:
        models.create("inception_v3", pretrained=True)
    assert str(cache / "inception_v3_weights_tf_dim_ordering_tf_kernels.h5") in str(error.value)


def test_an_unknown_variant_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(
        InputError, match=r"'edsr_baseline_x2' has no weights 'offical'; its variants are: off"
    ):
        models.create("edsr_baseline_x2", weights="offical")
    with pytest.raises(InputError, match=r"'edsr' has no weights 'official'; its variants are: none; a file"):
        models.create("edsr", weights="official")
    # A file that is there is what was meant, and so is a name with the suffix of one.
    (tmp_path / "weights").touch()
    with pytest.raises(InputError, match=r"weights file .*weights: unknown kind"):
        models.create("edsr", weights=tmp_path / "weights")
    with pytest.raises(InputError, match=r"offical\.pt: cannot be read"):
        models.create("edsr", weights=tmp_path / "offical.pt")


def test_every_download_names_a_network_and_a_hash():
    for entry in catalog.DOWNLOADS:
        assert entry.name in models.list_names()
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{8,64}", entry.digest)
        assert entry.url.startswith("https://")
        assert Path(entry.file).suffix in readers.TORCH_SUFFIXES + readers.KERAS_SUFFIXES
        assert entry.licence
        assert entry.origin
        network = inspect.signature(models.REGISTRY.builder(entry.name)).return_annotation
        converts = "keras_names" if Path(entry.file).suffix == ".h5" else "published_rules"
        assert hasattr(network, converts)
