"""A net with its weights, preprocessing and quantization; saved without pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.untrusted_files import WEIGHTS
from lepton_automl.errors import DataError, LeptonError, first_line
from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Linear
from lepton_automl.models.network import Network, Weights, build_network
from lepton_automl.models.quantization import (
    Preprocessing,
    QParams,
    check_scale,
    check_zero_point,
)

_MALFORMED = (LeptonError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
_FILES = "give a folder with arch.json, model.json and weights.safetensors"


@dataclass(frozen=True)
class Model:
    """An architecture with weights: input and output of every stage."""

    arch: Arch
    weights: Weights
    """Float tensors by name; `{op}.weight` and `{op}.norm.*`, or `{op}.bias` once folded."""
    preprocessing: Preprocessing
    qparams: QParams | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    parent: str = ""
    """`digest` of the model that this one was made from, or an empty string."""

    @property
    def is_folded(self) -> bool:
        """Whether batch normalisation is folded into the convolutions."""
        return not any(".norm." in name for name in self.weights)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of a hash of everything that `save` writes."""
        return hashlib.sha256(b"".join(self._files().values())).hexdigest()[:16]

    def network(self) -> Network:
        """The float network with these weights, in evaluation mode."""
        return build_network(self.arch, self.weights).eval()

    def save(self, folder: Path) -> Path:
        """Write `arch.json`, `model.json` and, last, `weights.safetensors`.

        Raises
        ------
        MachineError
            If the folder cannot be written.
        """
        for name, content in self._files().items():
            files.write(folder / name, content)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If files are missing or damaged.
        """
        try:
            arch = Arch.from_json(untrusted_files.read_text(folder / "arch.json", fix=_FILES))
            about = untrusted_files.read_json(
                folder / "model.json", fix=_FILES, top=dict, finite=False
            )
            tensors = load_tensors(
                untrusted_files.read_bytes(folder / "weights.safetensors", WEIGHTS, fix=_FILES)
            )
            preprocessing = Preprocessing.from_fields(about["preprocessing"])
            weights = {k[2:]: v for k, v in tensors.items() if k.startswith("w:")}
            _check_weights(weights, arch)
            qparams = _qparams(about, tensors) if about["quantized"] else None
            if qparams is not None:
                _check_complete(qparams, arch)
            metrics, parent = about["metrics"], about["parent"]
            if not all(isinstance(value, int | float) for value in metrics.values()):
                raise TypeError("a metric is not a number")
            return cls(arch, weights, preprocessing, qparams, metrics, str(parent))
        except _MALFORMED as error:
            raise DataError(
                f"{folder} does not hold a model of lepton: {first_line(error)}", fix=_FILES
            ) from error

    def _files(self) -> dict[str, bytes]:
        tensors = {f"w:{name}": tensor.contiguous() for name, tensor in self.weights.items()}
        about: dict[str, Any] = {
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "quantized": self.qparams is not None,
            "metrics": self.metrics,
            "parent": self.parent,
        }
        if self.qparams is not None:
            about["scales"], about["zero_points"] = self.qparams.scales, self.qparams.zero_points
            for prefix in ("weights", "weight_scales", "biases"):
                for name, array in getattr(self.qparams, prefix).items():
                    tensors[f"{prefix}:{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        return {
            "arch.json": (self.arch.to_json() + "\n").encode(),
            "model.json": (json.dumps(about, indent=1) + "\n").encode(),
            "weights.safetensors": save_tensors(tensors),
        }


def _check_weights(weights: Weights, arch: Arch) -> None:
    """Raise a KeyError or ValueError where an operation lacks weights or has other shapes."""
    norm = [f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    for op in arch.graph.weighted_ops:
        out = op.weight_shape[:1]
        is_folded = f"{op.name}.bias" in weights
        rest = ["bias"] if is_folded else norm
        for part, shape in [("weight", op.weight_shape), *((part, out) for part in rest)]:
            found = tuple(weights[f"{op.name}.{part}"].shape)
            if found != shape:
                raise ValueError(f"{op.name}.{part} has the shape {found}, not {shape}")


def _check_complete(qparams: QParams, arch: Arch) -> None:
    """Raise a KeyError or ValueError where a value or an operation of the net has no parameters."""
    stored = [arch.graph.input.name]
    stored += [op.y.name for op in arch.graph.ops if not isinstance(op, Linear)]
    for name in stored:
        qparams.scales[name], qparams.zero_points[name]
    for op in arch.graph.weighted_ops:
        out = (op.weight_shape[0],)
        shapes = ((qparams.weights, op.weight_shape), (qparams.weight_scales, out))
        for arrays, shape in (*shapes, (qparams.biases, out)):
            if arrays[op.name].shape != shape:
                raise ValueError(f"{op.name} has parameters {arrays[op.name].shape}, not {shape}")


def _qparams(about: dict[str, Any], tensors: dict[str, Tensor]) -> QParams:
    def arrays(prefix: str) -> dict[str, np.ndarray]:
        start = f"{prefix}:"
        return {k.removeprefix(start): v.numpy() for k, v in tensors.items() if k.startswith(start)}

    for name, check in (("scales", check_scale), ("zero_points", check_zero_point)):
        for value in about[name].values():
            check(value, name)
    return QParams(
        about["scales"],
        about["zero_points"],
        arrays("weights"),
        arrays("weight_scales"),
        arrays("biases"),
    )
