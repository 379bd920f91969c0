from __future__ import annotations

import io
import os
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lepton_automl.core import untrusted_arrays as untrusted
from lepton_automl.errors import DataError

FIX = "write it again"
X = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text, data=b"", version=1):
    raw = text.encode()
    size = len(raw).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + data


def claims(descr="'|u1'", shape="(2,)", data=b"ab", fortran="False"):
    return header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n", data)


def packed(path, members, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # A name twice.
        for name, content in members:
            archive.writestr(name, content)
    return path


def read_all(path):
    with untrusted.open_npz(path, fix=FIX) as archive:
        return {key: archive.read(key) for key in archive.files}


def refused(path, said):
    """One error with the way out, without the memory that the file claims."""
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(DataError, match=said) as caught:
        read_all(path)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    assert time.process_time() - begun < 10
    assert caught.value.what.startswith(f"{path} is not a readable .npz file")
    assert caught.value.fix == FIX


@given(
    arrays.arrays(
        arrays.boolean_dtypes()
        | arrays.integer_dtypes(endianness="?")
        | arrays.floating_dtypes(sizes=(32, 64), endianness="?")
        | arrays.unicode_string_dtypes(max_len=3)
        | arrays.byte_string_dtypes(max_len=3),
        arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    st.booleans(),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_numpy_writes_is_read_as_numpy_reads_it(tmp_path, array, is_fortran, is_packed):
    array = np.asfortranarray(array) if is_fortran else array
    (np.savez_compressed if is_packed else np.savez)(tmp_path / "a.npz", x=array, y=X)
    np.save(tmp_path / "a.npy", array)
    found = [read_all(tmp_path / "a.npz")["x"], untrusted.read_npy(tmp_path / "a.npy", fix=FIX)]
    wanted = np.load(tmp_path / "a.npy")
    for each in found:
        assert each.dtype == wanted.dtype
        assert each.flags.writeable
        np.testing.assert_array_equal(each, wanted)


def test_an_array_that_is_read_in_many_pieces_is_the_one_that_was_written(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 1_000_003), np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    for found in (
        untrusted.read_npy(tmp_path / "a.npy", fix=FIX),
        read_all(tmp_path / "a.npz")["x"],
    ):
        assert found.tobytes() == array.tobytes()


BAD_HEADERS = {
    "claims uint8": claims(shape="(1099511627776,)"),
    "26 bytes are there|2 bytes are there": claims(shape="(3,)"),
    "bytes are there": claims(shape="(1,)"),
    "its shape is": claims(shape="(-2,)"),
    r"shape is \(True": claims(shape="(True, 2)"),
    "shape is 2;": claims(shape="2"),
    "numbers from 0 on": claims(shape=f"({'1, ' * 40})"),
    "several fields": claims(descr="[('a', '|u1')]"),
    "elements are '|V2'": claims(descr="'|V2'"),
    "elements are '<M8": claims(descr="'<M8[s]'"),
    "elements are '<f3'": claims(descr="'<f3'"),
    "elements are '|S0'": claims(descr="'|S0'"),
    "no array of numpy": b"text",
    "header has 65535 bytes": header("{" + " " * 65534),
    "header has 4294967295": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "header ends early": b"\x93NUMPY\x01\x00\x70\x00{",
    "not that of an array": header("(" * 9000),
    "that of an array": header("{'descr': 3}"),
    "is not that of": header("\xff\0"),
    "is not that": header("__import__('os')"),
}


@pytest.mark.parametrize(("said", "content"), BAD_HEADERS.items())
def test_a_header_that_claims_what_is_not_there_is_refused(tmp_path, said, content):
    refused(packed(tmp_path / "a.npz", [("x.npy", content)]), said)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npy file"):
        untrusted.read_npy(tmp_path / "a.npy", fix=FIX)


def test_python_objects_are_never_unpickled(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    content = npy(np.array([Harmful()], object))
    path = packed(tmp_path / "a.npz", [("x.npy", content)])
    with pytest.raises(DataError, match="Python objects"):
        read_all(path)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match="Python objects"):
        untrusted.read_npy(tmp_path / "a.npy", fix=FIX)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("members", "method", "said"),
    [
        ([("x.npy", npy(X))], zipfile.ZIP_BZIP2, "method 12"),
        ([("x.npy", npy(X))], zipfile.ZIP_LZMA, "method 14"),
        ([("x.npy", npy(X)), ("x.npy", npy(X))], zipfile.ZIP_STORED, "'x' twice"),
        ([("x.npy", npy(X)), ("x", npy(X))], zipfile.ZIP_STORED, "'x' twice"),
        ([("../x.npy", npy(X))], zipfile.ZIP_STORED, "leads out"),
        ([("/x.npy", npy(X))], zipfile.ZIP_STORED, "leads out"),
    ],
)
def test_members_of_another_kind_are_refused(tmp_path, members, method, said):
    refused(packed(tmp_path / "a.npz", members, method), said)


def patched(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def test_encrypted_members_are_refused(tmp_path):
    path = packed(tmp_path / "a.npz", [("x.npy", npy(X))])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


def test_an_array_that_unpacks_to_far_more_is_refused(tmp_path):
    size = 300 << 20
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # noqa: SIM117
        with archive.open("x.npy", "w") as file:
            start = claims(shape=f"({size},)", data=b"")
            file.write(start)
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
    refused(path, "at most 200 times")


def test_a_list_of_very_many_arrays_is_refused(tmp_path):
    members = [(f"{'x' * 200}{number}.npy", b"") for number in range(5000)]
    refused(packed(tmp_path / "a.npz", members), f"at most {untrusted.MAX_DIRECTORY}")


def test_a_changed_byte_of_the_data_is_found(tmp_path):
    path = packed(tmp_path / "a.npz", [("x.npy", npy(X))])
    refused(patched(path, X.tobytes(), X.tobytes()[::-1]), "CRC")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_changed_bytes_are_arrays_or_one_error(tmp_path, data):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=np.array(["a", "b"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_all(path)
    except DataError as error:
        assert error.fix  # noqa: PT017


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda b: b"\x93NUMPY\x01\x00" + b))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_array_or_one_error(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    try:
        untrusted.read_npy(tmp_path / "a.npy", fix=FIX)
    except DataError as error:
        assert error.fix == FIX  # noqa: PT017
