"""Verdicts with made-up figures, for tests."""

from __future__ import annotations

import dataclasses

from lepton_automl.machine import Machine
from lepton_automl.verdict import Elsewhere, Figures, JudgedLimit, PairedDrop, Parity, Verdict


def figures(file: str = "model.int8.onnx", **changes) -> Figures:
    """Figures of a file of 12 kB."""
    base = Figures(
        file=file,
        sha256=("a" if "int8" in file else "b") * 64,
        accuracy=0.9861,
        accuracy_interval=(0.9681, 0.9940),
        n_samples=360,
        size_bytes=12_000,
        weight_bytes=8_000,
        parameter_bytes=9_000,
        macs=200_000,
        peak_ram_bytes=1_500,
        latency_ms=0.013,
        latency_interval=(0.012, 0.014),
        float_nodes=(),
    )
    return dataclasses.replace(base, **changes)


def verdict(**changes) -> Verdict:
    """A verdict that holds; its one limit is an exact one."""
    base = Verdict(
        status="holds",
        primary="int8",
        prefer="size",
        limits=(JudgedLimit("max_size_bytes", 20_000, 12_000, None, "holds"),),
        problems=(),
        parity=Parity(100, 0, 98, 98, 0.0, holds=True),
        int8=figures(),
        float32=figures("model.fp32.onnx", size_bytes=40_000, float_nodes=("a (Conv)",)),
        reference=figures("reference/model.fp32.onnx", size_bytes=50_000),
        drops={"int8": PairedDrop(0.28, -0.5, 1.1, 0.9, 360)},
        test_fingerprint="feedfacefeedface",
        openings=1,
        grouped=False,
        machine=Machine("Some CPU", ("avx2",), 2, "1.32.0", "Linux x86_64"),
    )
    return dataclasses.replace(base, **changes)


def elsewhere(basis: str = "estimated", **changes) -> Elsewhere:
    """Two milliseconds on another device, give or take one."""
    return dataclasses.replace(Elsewhere(2.0, (1.0, 3.0), basis, "cortex-m: a core"), **changes)
