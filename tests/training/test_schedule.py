"""A training whose time is limited, with a simulated clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training import loop, schedule
from lepton_automl.training.checkpoint import saved_share
from lepton_automl.training.optim import lr_schedule
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import Schedule

STEPS = 1000


class Clock:
    """Seconds pass only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        monkeypatch.setattr(schedule.time, "perf_counter", lambda: self.now)

    def until(self, end: float) -> Callable[[], float]:
        return lambda: end - self.now


def trained(
    plan: Schedule, clock: Clock, seconds: Callable[[int], float], most: int = 10 * STEPS
) -> list[int]:
    """The steps of the schedule that a training takes; each batch takes `seconds` of its number."""
    plan.begin(STEPS)
    taken = []
    while not plan.is_complete and plan.batches < most:
        taken.append(plan.step)
        clock.now += seconds(plan.batches)
        plan.advance()
        if plan.batches % 4 == 0:
            plan.adapt()
    return taken


def test_without_a_limit_every_batch_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Schedule()
    assert trained(plan, Clock(monkeypatch), lambda n: 1e9) == list(range(STEPS))
    assert (plan.changes, plan.share, plan.passed) == ([], 1.0, 1.0)


def test_a_training_in_time_is_not_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    plan = Schedule(clock.until(clock.now + 1.02 * STEPS))
    assert trained(plan, clock, lambda n: 1.0) == list(range(STEPS))
    assert plan.changes == []


@given(
    speeds=st.lists(st.floats(0.2, 5.0), min_size=1, max_size=5),
    budget=st.floats(0.3, 3.0),
)
def test_whatever_the_speed_it_ends_in_time_with_the_whole_schedule_passed(
    speeds: list[float], budget: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        end = clock.now + budget * STEPS
        plan = Schedule(clock.until(end))
        parts = len(speeds)
        taken = trained(plan, clock, lambda n: speeds[min(parts - 1, n * parts // STEPS)])
    # The speed of the last window before it rose is all that is known.
    assert clock.now <= end + 0.1 * budget * STEPS
    assert all(after - before >= 0 for before, after in pairwise(taken))
    step = max(size for _, size in [(0, 1.0), *plan.changes])
    assert taken[-1] >= STEPS - 1 - step
    assert len(taken) == plan.batches <= STEPS
    if sum(speeds) / parts < 0.8 * budget and max(speeds) < budget:
        assert len(taken) == STEPS


def test_a_training_twice_as_slow_has_half_the_batches_and_its_rate_decays_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    plan = Schedule(clock.until(clock.now + STEPS))
    taken = trained(plan, clock, lambda n: 2.0)
    assert 0.45 * STEPS <= len(taken) <= 0.5 * STEPS
    assert plan.share == len(taken) / STEPS
    rates = [lr_schedule("onecycle", STEPS)[step] for step in taken]
    assert rates[-1] < 0.001
    assert max(rates) > 0.99


def test_one_that_becomes_fast_again_needs_no_longer_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    plan = Schedule(clock.until(clock.now + STEPS))
    trained(plan, clock, lambda n: 3.0 if n < 100 else 0.5)
    assert plan.changes[-1][1] == 1.0
    assert len(plan.changes) > 1


def test_when_the_time_is_over_the_next_batch_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    plan = Schedule(clock.until(clock.now - 1.0))
    assert len(trained(plan, clock, lambda n: 1.0)) == 5


def test_repeated_changes_give_the_same_steps_at_any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Schedule(clock.until(clock.now + STEPS))
    taken = trained(first, clock, lambda n: 1.0 + n / 300)
    assert len(first.changes) > 2
    again = Schedule(clock.until(clock.now), first.changes)
    assert trained(again, clock, lambda n: 0.001) == taken
    assert (again.share, again.changes) == (first.share, first.changes)


def test_it_continues_from_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Schedule(clock.until(clock.now + STEPS))
    trained(first, clock, lambda n: 2.0, most=300)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    again = Schedule(clock.until(clock.now + STEPS))
    again.begin(STEPS)
    again.load_state_dict(state)
    assert (again.step, again.batches) == (first.step, first.batches)
    assert again.changes == first.changes
    assert again.passed == first.passed


SEEN = Preprocessing(zero_point=100, scale=0.0125)
RICH = Recipe(augment=1.0, lr=0.05, batch_size=16, flip=True, cutout=0.2, mixup=0.2)


def noise(count: int = 160) -> LabelledTensors:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
    return LabelledTensors(pixels, torch.arange(count) % 3)


def fresh() -> Model:
    return loop.initial_model(chain((8, 8, 1), [Stem(out=4), Head()], 3), SEEN, 0)


def slow(plan: Schedule, clock: Clock, checkpoint: Path | None = None, stop: int = 0) -> Model:
    """A training of 8 epochs whose batches take 2 s each."""

    def on_batch(done: int, total: int) -> None:
        assert 0 < done <= total
        clock.now += 2.0
        if done == stop:
            raise KeyboardInterrupt

    return loop.fit(
        fresh(),
        noise(),
        RICH,
        epochs=8,
        seed=3,
        schedule=plan,
        on_batch=on_batch,
        checkpoint=checkpoint,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(loop.Loader, "_end_of_chunk", _short_chunks(loop.Loader._end_of_chunk))
    return Clock(monkeypatch)


def _short_chunks(end: Callable[..., int]) -> Callable[..., int]:
    """At most two batches a chunk, as of large pictures."""
    return lambda loader, step: min(end(loader, step), step + 2)


def test_a_shortened_training_can_be_repeated_bit_for_bit(clock: Clock) -> None:
    first = Schedule(clock.until(clock.now + 100.0))
    model = slow(first, clock)
    assert 40 <= first.batches <= 52 < first.steps == 80
    assert slow(Schedule(changes=first.changes), clock).digest == model.digest
    assert slow(Schedule(), clock).digest != model.digest


def test_a_shortened_training_that_is_killed_continues(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_automl.training.checkpoint._INTERVAL_SECONDS", 0.0)
    path = tmp_path / "resume.safetensors"
    with pytest.raises(KeyboardInterrupt):
        slow(Schedule(clock.until(clock.now + 100.0)), clock, path, stop=31)
    share = saved_share(path)
    assert 0.5 < share < 0.8  # Thirty batches of about fifty.
    again = Schedule(clock.until(clock.now + 40.0))
    model = slow(again, clock, path)
    assert again.batches < 60
    assert again.changes[0][0] < 30  # Those before the kill are known.
    assert slow(Schedule(changes=again.changes), clock).digest == model.digest


@pytest.mark.parametrize("part", ["schedule", "step"])
def test_a_state_of_a_version_without_a_part_is_ignored(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr("lepton_automl.training.checkpoint._INTERVAL_SECONDS", 0.0)
    path = tmp_path / "resume.safetensors"
    with pytest.raises(KeyboardInterrupt):
        slow(Schedule(), clock, path, stop=31)
    with safe_open(path, "pt") as file:
        about = {name: text for name, text in file.metadata().items() if name != part}
    tensors = {name: t for name, t in load_file(path).items() if not name.startswith(f"{part}/")}
    save_file(tensors, path, about)
    assert slow(Schedule(), clock, path).digest == slow(Schedule(), clock).digest


def test_the_share_of_a_file_that_is_no_checkpoint_is_zero(tmp_path: Path) -> None:
    for content in (b"", b"no tensors", bytes(range(256)) * 8):
        (tmp_path / "damaged").write_bytes(content)
        assert saved_share(tmp_path / "damaged") == 0.0
    assert saved_share(tmp_path / "missing") == 0.0


def test_the_last_batches_of_a_shortened_training_are_not_augmented(clock: Clock) -> None:
    recipe = dataclasses.replace(RICH, plain_finish=0.25)
    plan = Schedule(changes=[(2, 2.0)])
    loader = loop.Loader(noise(), SEEN, recipe, 8, 0, torch.device("cpu"), schedule=plan)
    plain = []
    own = loader._load_chunk
    loader._load_chunk = lambda samples, *, is_plain: (  # type: ignore[method-assign]
        plain.append((plan.step, is_plain)),
        own(samples, is_plain=is_plain),
    )[1]
    while not plan.is_complete:
        loader.batch(plan.batches)
        plan.advance()
        plan.adapt()
    assert loader.plain_from == 60
    assert [step >= 60 for step, _ in plain] == [is_plain for _, is_plain in plain]
    assert sum(is_plain for _, is_plain in plain) == 5  # Ten batches, two in a chunk.
