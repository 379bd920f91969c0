"""Train a network with one loop over the batches: from a model to a trained model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import torch
from torch import Tensor, nn

from lepton_automl.errors import LeptonError
from lepton_automl.metrics import balanced
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.network import build_network, extract_weights
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training.checkpoint import NO_CHECKPOINT, Checkpoint, Stateful
from lepton_automl.training.distributed import SINGLE_PROCESS, ProcessGroup
from lepton_automl.training.evaluate import TrainingSlot, to_device
from lepton_automl.training.loader import Loader
from lepton_automl.training.loss import Forward, Loss
from lepton_automl.training.memory import evaluation_batch
from lepton_automl.training.optim import Optimizer, lr_schedule
from lepton_automl.training.precision import matmul_dtype
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import Schedule
from lepton_automl.training.step import CudaGraphStep, StepFunction, TrainStep

if TYPE_CHECKING:
    from lepton_automl.data.dataset import LabelledTensors

OnBatch = Callable[[int, int], None]
"""Callback after every batch: (batches done, batches in total)."""

CPU = torch.device("cpu")
_BATCHNORM_SAMPLES, _BATCHNORM_BATCH = 1024, 256


class Diverged(LeptonError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class TrainResult:
    """Number of steps and final loss of a training."""

    steps: int
    """Batches trained on."""
    loss: float
    """Mean loss over the last chunk of batches."""


def _ignore_batch(done: int, total: int) -> None:
    del done, total


def initial_model(arch: Arch, preprocessing: Preprocessing, seed: int) -> Model:
    """An untrained model of `arch`, its weights initialised from `seed`."""
    return Model(arch, extract_weights(build_network(arch, seed=seed)), preprocessing)


class TrainOptions(TypedDict):
    """Keyword arguments that `fit` passes to `train_loop`."""

    epochs: int
    seed: int
    device: NotRequired[torch.device]
    distill_weight: NotRequired[float]
    temperature: NotRequired[float]
    micro_batches: NotRequired[int]
    process_group: NotRequired[ProcessGroup]
    training_slot: NotRequired[TrainingSlot]
    on_batch: NotRequired[OnBatch]
    schedule: NotRequired[Schedule]


def fit(
    model: Model,
    data: LabelledTensors,
    recipe: Recipe,
    *,
    teachers: Sequence[Model] = (),
    checkpoint: Path | None = None,
    **options: Unpack[TrainOptions],
) -> Model:
    """Train a copy of `model` for `epochs` passes over `data` and return it.

    A pure function: equal arguments on the CPU (and as many threads) give equal bits. Every call
    runs the whole learning-rate schedule of the recipe. With `micro_batches` above 1 the gradients
    of a batch are accumulated over that many parts, to need less memory: the steps are the same
    but for rounding and for batch normalisation, which sees one part at a time.

    Parameters
    ----------
    model, data, recipe
        The model to start from, the training samples, the training hyperparameters.
    teachers : sequence of Model, optional
        Models to distil from: the mean of their logits on the same pixels.
    checkpoint : Path, optional
        File in which the state is saved from time to time. Killed at any moment and called again,
        the training continues from it and ends, on the CPU, on the same bits. The caller deletes
        the file once the result is saved.
    **options
        See `train_loop`.

    Raises
    ------
    Diverged
        If the loss becomes infinite or not a number.
    """
    device = options.get("device", CPU)
    network = build_network(model.arch, model.weights)
    saved: Checkpoint = NO_CHECKPOINT
    if checkpoint is not None:
        saved = _open_checkpoint(checkpoint, model, data, recipe, teachers, options)
    teacher = _ensemble([to_device(teacher.network(), device) for teacher in teachers])
    train_loop(
        network, data, model.preprocessing, recipe, teacher=teacher, checkpoint=saved, **options
    )
    with options.get("training_slot", contextlib.nullcontext)():
        recalibrate_batchnorm(
            network,
            data,
            model.preprocessing,
            seed=options["seed"],
            device=device,
            batch=evaluation_batch(model.arch.graph, _BATCHNORM_BATCH),
        )
    return dataclasses.replace(
        model, weights=extract_weights(network), qparams=None, metrics={}, parent=model.digest
    )


def _open_checkpoint(
    path: Path,
    model: Model,
    data: LabelledTensors,
    recipe: Recipe,
    teachers: Sequence[Model],
    options: TrainOptions,
) -> Checkpoint:
    """The checkpoint at `path`, with a key over everything that decides the result.

    Of the data only the labels enter: as many pixels would take long to hash.
    """
    labels = hashlib.sha256(data.labels.numpy().tobytes()).hexdigest()
    labels += " balanced" if data.is_balanced else ""
    process_group = options.get("process_group", SINGLE_PROCESS)
    # Of the schedule only changes that are given are known before the training.
    schedule = options.get("schedule")
    repeated = [] if schedule is None else schedule.changes
    without_effect = {"training_slot", "on_batch", "process_group", "schedule"}
    parts = (
        model.digest,
        labels,
        recipe.to_json(),
        [teacher.digest for teacher in teachers],
        sorted((k, str(v)) for k, v in options.items() if k not in without_effect),
        (matmul_dtype(options.get("device", CPU)), process_group.world_size),
        *([repeated] if repeated else []),
    )
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return Checkpoint(path, key, process_group=process_group)


def _ensemble(networks: Sequence[nn.Module]) -> Forward | None:
    """A function that returns the mean of the networks' logits; None without a network."""
    if not networks:
        return None
    return lambda x: torch.stack([network(x) for network in networks]).mean(0)


def train_loop(
    network: nn.Module,
    data: LabelledTensors,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    device: torch.device = CPU,
    forward: Forward | None = None,
    teacher: Forward | None = None,
    distill_weight: float = 0.9,
    temperature: float = 4.0,
    micro_batches: int = 1,
    process_group: ProcessGroup = SINGLE_PROCESS,
    training_slot: TrainingSlot = contextlib.nullcontext,
    on_batch: OnBatch = _ignore_batch,
    schedule: Schedule | None = None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> TrainResult:
    """Train `network` in place, from the state in `checkpoint` if there is one.

    Parameters
    ----------
    network, data, preprocessing, recipe
        The network, the training samples, their normalisation, the training hyperparameters.
    epochs : int
        Passes over the data; the learning-rate schedule of the recipe spans all of them.
    seed : int
        Of the order of the samples and of the augmentation.
    device : torch.device, optional
        Where to compute; the CPU by default.
    forward : callable, optional
        Computes the logits in place of `network`, whose parameters are trained.
    teacher : callable, optional
        Logits to distil from, weighted by `distill_weight` at `temperature`; see `Loss`.
    distill_weight : float
        Weight of `teacher` in the loss, 0 to 1; the labels have the rest.
    temperature : float
        Of the softmax of both in that loss, above 0.
    micro_batches : int
        Parts of a batch over which its gradients are accumulated.
    process_group : ProcessGroup
        This process in a data-parallel training; every process calls this function with arguments
        that are equal but for this one.
    training_slot : callable
        Returns a context manager that is entered around every batch.
    on_batch : callable
        Called after every batch.
    schedule : Schedule, optional
        A new one; it says how many batches there are where the time is limited.
    checkpoint : Checkpoint, optional
        Where the state is saved from time to time.

    Raises
    ------
    Diverged
        If the loss becomes infinite or not a number.
    """
    to_device(network, device).train()
    schedule = schedule or Schedule()
    loader = Loader(data, preprocessing, recipe, epochs, seed, device, process_group, schedule)
    optimizer = Optimizer(network.parameters(), recipe, loader.batch_size)
    lr_scale = lr_schedule(recipe.schedule, loader.steps)
    class_weights = None
    if data.strata is not None:
        class_weights = torch.from_numpy(balanced.class_weights(data.strata)).to(device)
    loss = Loss(recipe, teacher, distill_weight, temperature, class_weights)
    state: dict[str, Stateful] = {"network": network, "optimizer": optimizer, "loader": loader}
    state["schedule"] = schedule
    checkpoint.resume(state)
    train_step: StepFunction = TrainStep(
        forward or process_group.wrap(network), loss, optimizer, loader.mean_per_rank_batch
    )
    if device.type == "cuda" and micro_batches == process_group.world_size == 1 and not forward:
        train_step = CudaGraphStep(
            train_step, lambda: dict(network.state_dict()) | optimizer.state_dict()
        )
    total, last_loss = torch.zeros((), device=device), math.nan
    while not schedule.is_complete:
        batch = schedule.batches
        with training_slot():
            parts = loader.micro_batches(batch, micro_batches)
            total += train_step(parts, lr_scale[schedule.step])
            schedule.advance()
            if loader.is_last_of_chunk(batch):
                total = process_group.all_reduce_mean(total)
                last_loss = _mean_loss(total, loader.chunk_length, batch)
                schedule.adapt(process_group)
                checkpoint.save_if_due(schedule.batches, state, share=schedule.passed)
        on_batch(schedule.batches, schedule.batches + schedule.batches_before(loader.steps))
    network.eval()
    return TrainResult(schedule.batches, last_loss)


def _mean_loss(total: Tensor, count: int, step: int) -> float:
    """The mean loss of `count` batches; resets their sum `total` to 0."""
    loss = float(total) / count
    total.zero_()
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss became {loss} by batch {step + 1}",
            fix="lower lr in [train], or choose another optimizer",
        )
    return loss


@torch.no_grad()
def recalibrate_batchnorm(
    network: nn.Module,
    data: LabelledTensors,
    preprocessing: Preprocessing,
    *,
    seed: int,
    device: torch.device,
    batch: int = _BATCHNORM_BATCH,
) -> None:
    """Recompute the batch-normalisation statistics on training samples without augmentation.

    The running averages lag behind the weights where a training was short; the mean over a few
    large batches does not (Wu and Johnson 2021, section 3, arXiv:2105.07576).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    order = order.repeat(2)[: max(2, min(_BATCHNORM_SAMPLES, len(order)))]
    network.train()
    batches = torch.tensor_split(order, math.ceil(len(order) / batch))
    for number, index in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (number + 1)  # A cumulative mean over the batches.
        network(preprocessing.apply(data.pixels[index].to(device)))
    network.eval()
