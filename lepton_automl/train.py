"""Training: one loop over the batches, from weights to weights."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import torch
from torch import Tensor, nn

from lepton_automl import balance
from lepton_automl.arch import Arch
from lepton_automl.arithmetic import number_type
from lepton_automl.averaging import Average
from lepton_automl.batches import Batches
from lepton_automl.captured import Captured
from lepton_automl.errors import LeptonError
from lepton_automl.evaluate import Turn, placed
from lepton_automl.loss import Forward, Loss
from lepton_automl.model import Model, Preprocessing
from lepton_automl.network import build, weights_of
from lepton_automl.optimizers import Optimizer, schedule
from lepton_automl.parallel import ALONE, Ranks
from lepton_automl.recipe import Recipe
from lepton_automl.snapshot import NOWHERE, Snapshot, State, Stateful
from lepton_automl.stepping import Learn, Stepper

if TYPE_CHECKING:
    from lepton_automl.dataset import Labelled

Tick = Callable[[int, int], None]
"""Told (batches done, batches in all) after every batch."""

CPU = torch.device("cpu")
SETTLE_PICTURES, SETTLE_BATCH = 1024, 256


class Diverged(LeptonError):
    """The loss left the finite numbers."""


@dataclass(frozen=True)
class Fit:
    """What a training left behind besides the weights."""

    steps: int
    """Batches done."""
    loss: float
    """Mean loss over the last chunk of batches."""


def _nothing(done: int, total: int) -> None:
    del done, total


def fresh(arch: Arch, preprocessing: Preprocessing, seed: int) -> Model:
    """A model of `arch` before its first batch, the same for the same seed."""
    return Model(arch, weights_of(build(arch, seed=seed)), preprocessing)


class Course(TypedDict):
    """How one training is run; see `descend`."""

    epochs: int
    seed: int
    device: NotRequired[torch.device]
    distill_weight: NotRequired[float]
    temperature: NotRequired[float]
    parts: NotRequired[int]
    ranks: NotRequired[Ranks]
    turn: NotRequired[Turn]
    tick: NotRequired[Tick]


def fit(
    model: Model,
    data: Labelled,
    recipe: Recipe,
    *,
    teachers: Sequence[Model] = (),
    snapshot: Path | None = None,
    **course: Unpack[Course],
) -> Model:
    """`model` after `epochs` more passes over `data`.

    A pure function: equal arguments on the CPU (and as many threads) give equal bits. Every call
    runs the whole schedule of the recipe, so what it returns is a finished net. With `parts` above
    1 a batch goes through the net in so many pieces, to need less memory: the steps are the same
    but for rounding and for batch normalisation, which sees the pieces. With `snapshot`, a file,
    the state is kept there now and then: killed anywhere and called again, the training goes on
    and ends, on the CPU, on the same bits. Whoever keeps the result deletes the file. Of several
    `teachers`, which see the same pixels, the mean of the logits counts.

    Raises
    ------
    Diverged
        If the loss becomes infinite or not a number.
    """
    device = course.get("device", CPU)
    network = build(model.arch, model.weights)
    kept = (
        NOWHERE if snapshot is None else _snapshot(snapshot, model, data, recipe, teachers, course)
    )
    guide = _mean([placed(teacher.network(), device) for teacher in teachers])
    descend(network, data, model.preprocessing, recipe, teacher=guide, snapshot=kept, **course)
    with course.get("turn", contextlib.nullcontext)():
        settle(network, data, model.preprocessing, seed=course["seed"], device=device)
    return dataclasses.replace(
        model, weights=weights_of(network), qparams=None, metrics={}, parent=model.digest
    )


def _snapshot(
    path: Path,
    model: Model,
    data: Labelled,
    recipe: Recipe,
    teachers: Sequence[Model],
    course: Course,
) -> Snapshot:
    """Named by all a training is made from, but the pixels, which are as many as the labels."""
    labels = hashlib.sha256(data.labels.numpy().tobytes()).hexdigest()
    labels += " balanced" if data.is_balanced else ""
    guides = [teacher.digest for teacher in teachers]
    told = {"turn", "tick", "ranks"}
    decisive = sorted((k, str(v)) for k, v in course.items() if k not in told)
    ranks = course.get("ranks", ALONE)
    how = (number_type(course.get("device", CPU)), ranks.count)
    parts = (model.digest, labels, recipe.to_json(), guides, decisive, how)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return Snapshot(path, key, is_writer=ranks.rank == 0)


def _mean(networks: Sequence[nn.Module]) -> Forward | None:
    """The mean of their logits, as they are where there is one."""
    if not networks:
        return None
    return lambda x: torch.stack([network(x) for network in networks]).mean(0)


def descend(
    network: nn.Module,
    data: Labelled,
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
    parts: int = 1,
    ranks: Ranks = ALONE,
    turn: Turn = contextlib.nullcontext,
    tick: Tick = _nothing,
    snapshot: Snapshot = NOWHERE,
) -> Fit:
    """Train `network` in place, on from what `snapshot` kept.

    Parameters
    ----------
    network, data, preprocessing, recipe
        What is trained, on what, how.
    epochs : int
        Passes over the data: the whole schedule of the recipe.
    seed : int
        Of the order and the random changes of pictures.
    device : torch.device, optional
        Where to compute; the CPU by default.
    forward : callable, optional
        What is trained if it is not `network` alone, but something around it.
    teacher : callable, optional
        Whose answers count as well, by `distill_weight` at `temperature`; see `Loss`.
    parts : int
        In how many pieces a batch goes through the net.
    ranks : Ranks
        Which of several processes this is; each calls this with the same arguments but for this.
    turn, tick : callable
        Entered around every batch; told of it afterwards.
    snapshot : Snapshot, optional
        Where the state is kept now and then.

    Raises
    ------
    Diverged
        If the loss becomes infinite or not a number.
    """
    placed(network, device).train()
    batches = Batches(data, preprocessing, recipe, epochs, seed, device, ranks)
    optimizer = Optimizer(network.parameters(), recipe, batches.size)
    scale = schedule(recipe.schedule, batches.count)
    loss_of = Loss(recipe, teacher, distill_weight, temperature, _class_weights(data, device))
    average = Average(recipe.average, list(network.parameters()), batches.count)
    changing = _changing(network, optimizer, batches, average)
    first, total, last = snapshot.resume(changing), torch.zeros((), device=device), math.nan
    learn: Learn = Stepper(forward or ranks.wrapped(network), loss_of, optimizer, batches.mean)
    if device.type == "cuda" and parts == ranks.count == 1 and forward is None:
        learn = Captured(learn, lambda: changing["net"].state() | optimizer.state())
    for step in range(first, batches.count):
        with turn():
            total += learn(batches.pieces(step, parts), scale[step])
            average.follow(step)
            if batches.is_last_of_chunk(step):
                last = _finite(ranks.mean(total), batches.chunk_length, step)
                snapshot.keep(step + 1, changing)
        tick(step + 1, batches.count)
    network.eval()
    return Fit(batches.count, last)


@torch.no_grad()
def settle(
    network: nn.Module,
    data: Labelled,
    preprocessing: Preprocessing,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Measure batch normalisation's means and variances anew on unchanged training pictures.

    The running averages lag behind the weights where a training was short; the mean over a few
    large batches does not (Wu and Johnson 2021, section 3, arXiv:2105.07576).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    order = order.repeat(2)[: max(2, min(SETTLE_PICTURES, len(order)))]
    network.train()
    parts = torch.tensor_split(order, math.ceil(len(order) / SETTLE_BATCH))
    for number, index in enumerate(parts):
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        network(preprocessing.apply(data.pixels[index].to(device)))
    network.eval()


def _class_weights(data: Labelled, device: torch.device) -> Tensor | None:
    """What a picture of each class counts; None where all count alike."""
    if data.strata is None:
        return None
    return torch.from_numpy(balance.class_weights(data.strata)).to(device)


def _changing(
    network: nn.Module, optimizer: Optimizer, batches: Batches, average: Average
) -> dict[str, Stateful]:
    """What a snapshot keeps."""
    return {"net": _Net(network), "rates": optimizer, "batches": batches, "average": average}


class _Net:
    """Weights and running statistics, as a snapshot keeps them."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def state(self) -> State:
        return dict(self._network.state_dict())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._network.load_state_dict(state)


def _finite(total: Tensor, count: int, step: int) -> float:
    """The mean loss of `count` batches, whose sum starts anew."""
    loss = float(total) / count
    total.zero_()
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss became {loss} by batch {step + 1}",
            fix="lower lr in [train], or choose another optimizer",
        )
    return loss
