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


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_cache, "PIECE_BYTES", 4)


def cut(folder: Path, content: bytes, count: int) -> None:
    """A cache whose process has ended after some pieces of a content."""
    cache, sent = BlobCache(folder), pieces(Blob.of(content), content)
    for _ in range(count):
        cache.add(next(sent))
    cache._partial[Blob.of(content)]._file.close()  # As at the end of the process.


def test_a_transfer_that_was_cut_goes_on_from_the_bytes_that_came(
    tmp_path: Path, small_pieces: None
) -> None:
    content = b"twelve bytes"
    blob = Blob.of(content)
    assert BlobCache(tmp_path).resume(blob) == 0
    cut(tmp_path, content, 1)
    cut(tmp_path, content, 2)
    cache = BlobCache(tmp_path)
    assert cache.resume(blob) == 8, "those of the longest"
    (last,) = pieces(blob, content, 8)
    assert cache.add(last) == blob
    found = cache.find(blob)
    assert found is not None
    assert found.read_bytes() == content
    assert list(cache.folder.iterdir()) == [found], "nothing is left of the others"


def test_a_transfer_that_was_cut_after_its_last_byte_is_complete(
    tmp_path: Path, small_pieces: None
) -> None:
    content = b"twelve bytes"
    blob = Blob.of(content)
    cut(tmp_path, content, 2)
    (part,) = (tmp_path / "blobs").iterdir()
    part.write_bytes(content)
    cache = BlobCache(tmp_path)
    assert cache.resume(blob) == blob.size
    assert cache.find(blob) is not None


def test_a_part_that_is_damaged_is_refused_at_the_end_and_never_used_again(
    tmp_path: Path, small_pieces: None
) -> None:
    content = b"twelve bytes"
    blob = Blob.of(content)
    cut(tmp_path, content, 2)
    (part,) = (tmp_path / "blobs").iterdir()
    part.write_bytes(b"TWELVE b")
    cache = BlobCache(tmp_path)
    assert cache.resume(blob) == 8
    (last,) = pieces(blob, content, 8)
    with pytest.raises(ValueError, match="digest"):
        cache.add(last)
    assert list(cache.folder.iterdir()) == []
    assert cache.resume(blob) == 0
    added(cache, content)


def test_two_processes_that_receive_the_same_content_do_not_disturb_each_other(
    tmp_path: Path, small_pieces: None
) -> None:
    content = b"twelve bytes"
    blob = Blob.of(content)
    slow, quick = BlobCache(tmp_path), BlobCache(tmp_path)
    first, second, third = pieces(blob, content)
    slow.add(first)
    assert quick.resume(blob) == 4
    slow.add(second)
    assert quick.add(second) is None
    assert quick.add(third) == blob
    assert slow.add(third) == blob
    assert added(slow, content).read_bytes() == content


def test_a_content_that_is_there_may_be_sent_again(tmp_path: Path, small_pieces: None) -> None:
    path = added(BlobCache(tmp_path), b"twelve bytes")
    cache, blob = BlobCache(tmp_path), Blob.of(b"twelve bytes")
    for piece in pieces(blob, b"twelve bytes", 4):
        assert cache.add(piece) == blob
    assert list(cache.folder.iterdir()) == [path]


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
