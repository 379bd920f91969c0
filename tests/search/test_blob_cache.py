from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.errors import MachineError
from lepton_automl.search.workers import blob_cache
from lepton_automl.search.workers.blob_cache import Blob, BlobCache, Received, pieces


def added(cache: BlobCache, content: bytes) -> Path:
    blob, last = Blob.of(content), None
    for piece in pieces(blob, content):
        last = cache.add(piece)
    assert last == blob
    path = cache.find(blob)
    assert path is not None
    return path


@given(st.binary(max_size=700), st.integers(4, 300))
def test_contents_come_back_whatever_the_size_of_a_piece(content: bytes, size: int) -> None:
    before, blob_cache.PIECE_BYTES = blob_cache.PIECE_BYTES, size
    try:
        sent = list(pieces(Blob.of(content), content))
        received = Received(1000)
        for piece in sent:
            received.add(piece)
    finally:
        blob_cache.PIECE_BYTES = before
    assert received.take(Blob.of(content)) == content
    assert len(sent) == max(1, -(-len(content) // size))


def test_a_file_is_there_only_when_all_its_pieces_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_cache, "PIECE_BYTES", 4)
    source = tmp_path / "source"
    source.write_bytes(b"twelve bytes")
    cache, blob = BlobCache(tmp_path), Blob.of(b"twelve bytes")
    first, second, third = pieces(blob, source)
    assert cache.add(first) is None
    assert cache.add(second) is None
    assert cache.find(blob) is None
    assert cache.add(third) == blob
    found = cache.find(blob)
    assert found is not None
    assert found.read_bytes() == b"twelve bytes"
    assert list(cache.folder.iterdir()) == [found]


@pytest.mark.parametrize(
    "changed", [{"data": "AAAA"}, {"offset": 1}, {"data": "no base 64"}, {"sha256": "../x"}]
)
def test_another_content_or_order_is_refused_and_leaves_no_file(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    cache = BlobCache(tmp_path)
    (piece,) = pieces(Blob.of(b"abc"), b"abc")
    with pytest.raises(ValueError, match=r"piece|digest|content|base 64"):
        cache.add(piece | changed)
    assert list(cache.folder.iterdir()) == []


def test_a_file_that_was_changed_is_deleted_and_lacks(tmp_path: Path) -> None:
    path = added(BlobCache(tmp_path), b"abc")
    path.write_bytes(b"abd")
    assert BlobCache(tmp_path).find(Blob.of(b"abc")) is None
    assert not path.exists()


def test_files_that_were_not_used_for_long_are_deleted_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(tmp_path)
    paths = [added(cache, bytes([number]) * 10) for number in range(4)]
    now = time.time()
    for path, age in zip(paths, (40 * 86_400, 300, 200, 100), strict=True):
        os.utime(path, (now - age, path.stat().st_mtime))
    assert cache.find(Blob.of(bytes([1]) * 10)) == paths[1]  # It is the newest now.
    monkeypatch.setattr(blob_cache, "MAX_CACHE_BYTES", 35)
    cache.collect(10)
    assert [path.exists() for path in paths] == [False, True, False, True]


def test_more_than_the_disk_has_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no space left"):
        BlobCache(tmp_path).collect(1 << 62)


def test_what_a_host_sends_is_bounded() -> None:
    content = bytes(100)
    (piece,) = pieces(Blob.of(content), content)
    with pytest.raises(ValueError, match="99 bytes"):
        Received(99).add(piece)
