"""Batches against pictures that can be told apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training import loader
from lepton_automl.training.loader import Loader, fits_on_device
from lepton_automl.training.recipe import Recipe

CPU = torch.device("cpu")
AS_THEY_ARE = Preprocessing(0, 1.0)
PLAIN = Recipe(augment=0.0, batch_size=4)


def numbered(count=10):
    """Picture n is n + 1 everywhere, but 101 + n in its left column; its label is n."""
    pixels = torch.arange(1, count + 1, dtype=torch.uint8)[:, None, None, None].repeat(1, 8, 8, 1)
    pixels[:, :, 0] += 100
    return LabelledTensors(pixels, torch.arange(count))


def made(recipe, epochs=3, data=None):
    return Loader(data or numbered(), AS_THEY_ARE, recipe, epochs=epochs, seed=1, device=CPU)


def taken(recipe, epochs=3, data=None):
    """All pictures and all labels in order."""
    source = made(recipe, epochs, data)
    each = [source.batch(step) for step in range(source.steps)]
    return torch.cat([batch.x for batch in each]), torch.cat([batch.labels for batch in each])


@pytest.mark.parametrize("chunk", [1, 5000, 1 << 20])
def test_every_sample_comes_once_an_epoch_for_any_chunk_size(monkeypatch, chunk):
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", chunk)
    x, labels = taken(PLAIN)
    assert torch.equal(x[:, 0, 3, 3].long(), labels + 1)
    for epoch in range(3):
        part = labels[10 * epoch : 10 * (epoch + 1)]
        assert sorted(part.tolist()) == list(range(10))
    assert not torch.equal(labels[:10], labels[10:20])


@pytest.mark.parametrize("share", [0.25, 0.0, 1.0])
@pytest.mark.parametrize("chunk", [1, 3000, 1 << 20])
@pytest.mark.parametrize("kind", [{"augment": 1.0}, {"cutout": 0.5}])
def test_the_last_batches_show_pictures_as_they_are(monkeypatch, chunk, share, kind):
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", chunk)
    recipe = dataclasses.replace(PLAIN, plain_finish=share, **kind)
    x, labels = taken(recipe, epochs=4)
    originals = AS_THEY_ARE.apply(numbered().pixels)[labels]
    plain = (x == originals).flatten(1).all(1)
    first = 4 * round((1 - share) * 10)  # whole batches
    assert plain.tolist() == [False] * first + [True] * (40 - first)


@pytest.mark.parametrize("augment", [0.0, 1.0])
def test_a_sample_flipped_in_one_pass_is_not_flipped_in_the_next(augment):
    recipe = dataclasses.replace(PLAIN, flip=True, augment=augment, augment_kind="crop")
    x, labels = taken(recipe, epochs=4, data=numbered(60))
    is_left = x[:, 0, 3, 0] >= 100
    is_right = x[:, 0, 3, 7] >= 100
    if not augment:
        assert torch.equal(is_left, ~is_right)
        sides = torch.stack(
            [is_left[labels[60 * n : 60 * n + 60].argsort() + 60 * n] for n in range(4)]
        )
        assert torch.equal(sides[0], ~sides[1])
        assert torch.equal(sides[:2], sides[2:])
        assert 15 < sides[0].sum() < 45
    assert is_left.any()
    assert is_right.any()


def test_micro_batches_have_at_least_two_samples_and_form_the_batch():
    recipe = dataclasses.replace(PLAIN, batch_size=7)
    whole, pieces = made(recipe).batch(0), list(made(recipe).micro_batches(0, 5))
    assert [len(part.labels) for part in pieces] == [3, 2, 2]
    assert torch.equal(torch.cat([part.x for part in pieces]), whole.x)
    assert torch.equal(torch.cat([part.labels for part in pieces]), whole.labels)


def test_labels_of_mixed_pictures_are_those_of_both_halves():
    recipe = dataclasses.replace(PLAIN, batch_size=5, mixup=1.0, plain_finish=0.0)
    source = made(recipe, epochs=2)
    for step in range(source.steps):
        batch = source.batch(step)
        own, other = (y.float() + 1 for y in (batch.labels, batch.mixed_labels))
        assert torch.allclose(batch.x[:, 0, 3, 3], torch.lerp(other, own, batch.lam), atol=1e-4)
        assert 0 < batch.lam.min() < batch.lam.max() < 1


@pytest.mark.parametrize("step", [1, 3])
def test_a_restored_loader_continues_with_the_same_batches(monkeypatch, step):
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", 1)
    recipe = dataclasses.replace(PLAIN, flip=True, augment=1.0, cutout=0.5, cutmix=0.5)
    whole, first, second = made(recipe), made(recipe), made(recipe)
    for number in range(whole.steps):
        expected = whole.batch(number)
        if number < step:
            first.batch(number)
        if number == step:
            second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
        if number >= step:
            found = second.batch(number)
            assert torch.equal(found.x, expected.x)
            assert torch.equal(found.labels, expected.labels)


def test_mapped_pictures_are_read_from_their_file_and_not_copied(tmp_path):
    path = tmp_path / "pixels.npy"
    np.save(path, np.arange(64 * 16, dtype=np.uint8).reshape(64, 4, 4, 1))
    mapped = torch.from_numpy(np.load(path, mmap_mode="c"))
    there = made(PLAIN, data=LabelledTensors(mapped, torch.arange(64)))
    assert there.pixels.data_ptr() == mapped.data_ptr()


@pytest.mark.parametrize(("free", "kept"), [(3000, True), (1500, False)])
def test_a_gpu_keeps_what_takes_half_of_its_free_memory_at_most(monkeypatch, free, kept):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    pixels = torch.zeros(64, 4, 4, 1, dtype=torch.uint8)
    assert fits_on_device(pixels, torch.device("cuda")) == kept
    assert fits_on_device(pixels, torch.device("cpu"))


@pytest.mark.parametrize("chunk", [1, 5000])
def test_pictures_beyond_a_gpu_are_gathered_ahead_and_are_the_same(monkeypatch, chunk):
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", chunk)
    recipe = dataclasses.replace(PLAIN, augment=1.0, mixup=0.5)
    x, labels = taken(recipe)
    ahead = []
    take = loader._Gatherer.take

    def counted(self, index):
        ahead.append(self._rows is not None and torch.equal(index, self._index))
        return take(self, index)

    monkeypatch.setattr(loader._Gatherer, "take", counted)
    monkeypatch.setattr(loader, "fits_on_device", lambda pixels, device: False)
    streamed, same = taken(recipe)
    assert torch.equal(streamed, x)
    assert torch.equal(same, labels)
    assert any(ahead) == (chunk == 1)  # The other chunks end with an epoch.
    assert not ahead[0]


def test_a_restored_loader_takes_no_pictures_that_were_gathered_for_another_chunk(monkeypatch):
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", 1)
    monkeypatch.setattr(loader, "fits_on_device", lambda pixels, device: False)
    source, other = made(PLAIN), made(PLAIN)
    source.batch(0)
    state = source.state_dict()
    expected = source.batch(1)
    other.batch(0)
    other._gatherer.start(torch.arange(4))
    other.load_state_dict(state)
    assert torch.equal(other.batch(1).x, expected.x)
