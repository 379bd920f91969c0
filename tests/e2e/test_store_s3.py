"""A real server of S3 (moto, on the loopback interface) behind a proxy that injects faults."""

from __future__ import annotations

import _socket
import hashlib
import http.client
import importlib.util
import socket
import threading

import pytest

from lepton_automl.core import object_storage
from lepton_automl.core.object_storage import FsspecStorage, RetryingStorage, StorageError
from tests.helpers.storages import Proxy, s3_server

pytestmark = [
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("moto", "s3fs")),
        reason="needs a server of S3: pip install 'lepton-automl[s3,test-s3]'",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SECRET = "a-secret-of-nobody"


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture
def proxy(server, monkeypatch):
    """A proxy of a server with an empty bucket; credentials are in the environment."""

    def connect(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] != "127.0.0.1":
            raise RuntimeError(f"a test tried to connect to {address}")
        return _socket.socket.connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    for method, path in (("POST", "/moto-api/reset"), ("PUT", "/bucket")):
        connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
        connection.request(method, path, headers={"Host": "127.0.0.1"})
        assert connection.getresponse().status == 200
        connection.close()
    made = Proxy(server)
    for name, value in (
        ("AWS_ENDPOINT_URL", made.url),
        ("AWS_ACCESS_KEY_ID", "key-of-nobody"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ):
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.fixture
def storage(proxy, monkeypatch):
    monkeypatch.setattr(object_storage, "_FIRST_PAUSE", 0.01)
    return RetryingStorage(FsspecStorage("s3://bucket/runs/one"), 20.0)


def test_objects_are_written_replaced_listed_and_deleted_by_name(storage):
    assert storage.read("a/b", 10) is None
    assert storage.objects("a") == []
    storage.write("a/b", b"one")
    storage.write("a/c/d", b"22")
    storage.write("ab", b"x")
    storage.write("a/b", b"three")
    assert storage.read("a/b", 5) == b"three"
    assert len(storage.read("a/b", 2)) == 3
    assert [(each.name, each.size) for each in storage.objects("a")] == [("a/b", 5), ("a/c/d", 2)]
    assert all(each.modified > 1e9 for each in storage.objects("a"))
    storage.remove("a/b")
    storage.remove("a/b")
    assert [each.name for each in storage.objects("a")] == ["a/c/d"]


def test_of_many_that_create_an_object_at_once_one_succeeds(storage):
    made, barrier = [], threading.Barrier(6)

    def create(number):
        barrier.wait()
        if storage.create("one", b"%d" % number):
            made.append(number)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [storage.read("one", 9)] == [b"%d" % number for number in made]


@pytest.mark.parametrize("fault", ["503", "429", "lost", "torn"])
def test_faults_of_a_moment_are_waited_for(storage, proxy, fault):
    content = bytes(range(256)) * 4096
    proxy.faults = [fault, fault]
    storage.write("a", content)
    proxy.faults = [fault, fault]
    assert hashlib.sha256(storage.read("a", len(content))).digest() == (
        hashlib.sha256(content).digest()
    )
    proxy.faults = [fault, fault]
    assert [each.name for each in storage.objects("")] == ["a"]
    proxy.faults = [fault]
    assert storage.create("b", b"mine")  # Made, though its answer was cut off: still one's own.
    proxy.faults = [fault]
    assert not storage.create("b", b"other")
    assert len(proxy.requests) >= 5 + 8


def test_a_store_that_stays_down_is_given_up_with_one_message(storage, proxy):
    storage.write("a", b"1")
    proxy.requests.clear()
    storage.seconds, proxy.always = 0.5, "503"
    with pytest.raises(StorageError, match="does not answer as it should") as caught:
        storage.write("a", b"1")
    assert caught.value.is_temporary
    assert SECRET not in caught.value.what + caught.value.fix
    assert 3 <= len(proxy.requests) <= 12


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off_is_said_at_once(storage, proxy, hours):
    proxy.clock_ahead = 3600 * hours
    with pytest.raises(StorageError, match="the clock of this machine, which says") as caught:
        storage.write("a", b"1")
    assert not caught.value.is_temporary
    assert "set the clock" in caught.value.fix
    assert len(proxy.requests) == 1


def test_a_bucket_that_is_not_there_and_missing_credentials_are_said_at_once(proxy, monkeypatch):
    storage = RetryingStorage(FsspecStorage("s3://nobucket/x"), 20.0)
    with pytest.raises(StorageError, match="does not exist"):
        storage.write("a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage = RetryingStorage(FsspecStorage("s3://bucket/x"), 20.0)
    with pytest.raises(StorageError, match="denies access") as caught:
        storage.write("a", b"1")
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix
