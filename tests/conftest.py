"""What every test may rely on: one thread, no network, the same random examples each time."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; commands started by tests inherit it
# Else each command that a test starts compiles the package again where the shell forbids bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Users' commands have buffered streams.
os.environ.pop("PYTHONUNBUFFERED", None)

import gc
import random
import signal
import socket
import uuid

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from optuna.samplers._lazy_random_state import LazyRandomState

from tests.helpers import forked

if not os.environ.get("LEPTON_TESTS_START_PROCESSES"):
    forked.install()

torch.set_num_threads(1)
LOOPBACK = ("127.0.0.1", "::1")
# A shell that starts the tests in the background has it ignored, and commands would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "ci",
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_finish():
    """Forked processes share what is imported and collected; no garbage collection visits it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Connections to other machines fail at once; those to servers of the test work."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in LOOPBACK:
            raise RuntimeError(f"a test tried to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    """Random numbers that a test draws without a seed are the same each time."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` formats a stack a device.
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    default_rng = np.random.default_rng
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed=None: default_rng(0 if seed is None else seed)
    )
    monkeypatch.setattr(LazyRandomState, "_set_rng", _set_seeded_rng)


def _set_seeded_rng(state):
    """Optuna's samplers without a seed."""
    state._rng = np.random.RandomState(0)


@pytest.fixture(scope="module")
def started_processes():
    """Programs are started as users start them, where memory or time of the process count."""
    with forked.starting():
        yield


@pytest.fixture(scope="session", autouse=True)
def _state_of_session(tmp_path_factory):
    """Session fixtures, such as `finished_run`, write no file in the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("LEPTON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _state(monkeypatch, tmp_path_factory):
    """Every test, with the processes that it starts, has a state and a cache folder of its own."""
    for name in ("STATE", "CACHE"):
        folder = tmp_path_factory.getbasetemp() / name.lower() / uuid.uuid4().hex  # made when used
        monkeypatch.setenv(f"LEPTON_{name}_DIR", str(folder))


@pytest.fixture(scope="session", autouse=True)
def _short():
    """No test depends on accuracy reached or on how exact a latency is."""
    from tests.helpers import short

    short.shorten()


@pytest.fixture
def float32(monkeypatch):
    """Trainings multiply as an oracle does, whatever the processor is good at."""
    monkeypatch.setattr("lepton_automl.training.precision._has_amx", lambda: False)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A small run through all stages, as (config, outcome); read it, never change it."""
    from tests.helpers import runs  # torch, onnxruntime and optuna: only for tests that need a run

    return runs.make(tmp_path_factory.mktemp("finished"))
