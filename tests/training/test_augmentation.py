"""Augmentation, against torch's affine grid and pictures with a known result."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lepton_automl.training import augmentation

KINDS = pytest.mark.parametrize("kind", ["affine", "crop", "signal", "audio"])


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=6, channels=3, height=9, width=12):
    return torch.randn(count, channels, height, width, generator=draws(9))


@KINDS
def test_no_strength_changes_nothing(kind):
    x = noise()
    assert torch.equal(augmentation.random_augment(x, kind, 0.0, generator=draws()), x)


@KINDS
def test_without_strength_only_the_selected_pictures_are_flipped(kind):
    x, mirrored = noise(4), torch.tensor([True, False, False, True])
    y = augmentation.random_augment(x, kind, 0.0, flipped=mirrored, generator=draws())
    wanted = torch.stack([x[0].flip(2), x[1], x[2], x[3].flip(2)])
    assert torch.equal(y, wanted)


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_one_of_the_pictures_windows(flip):
    x = noise(300, 2, 8, 16)  # an eighth is one row and two columns
    mirrored = torch.full((300,), flip)
    y = augmentation.random_augment(x, "crop", 1.0, flipped=mirrored, generator=draws())
    source = F.pad(x.flip(3) if flip else x, (2, 2, 1, 1), mode="reflect")
    windows = [source[:, :, i : i + 8, j : j + 16] for i in range(3) for j in range(5)]
    found = torch.stack([(y == w).flatten(1).all(1) for w in windows])
    assert (found.sum(0) == 1).all()
    assert (found.sum(1) > 0).all()


def test_cutout_sets_one_square_to_grey_that_may_cross_the_edge():
    x = torch.ones(4000, 3, 9, 12)
    hidden = (augmentation.cutout(x, 0.34, draws()) == 0).all(1)  # side 3 of 9
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.flatten(1).sum(1), rows * columns)
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3}
    everywhere = hidden.float().mean(0)
    assert everywhere.min() > 0
    assert everywhere.max() < 0.2


def test_cutout_of_size_0_changes_nothing():
    assert torch.equal(augmentation.cutout(noise(), 0.0, draws()), noise())
    assert torch.equal(augmentation.cutout(noise(), 0.04, draws()), noise())


@pytest.mark.parametrize("flip", [False, True])
def test_grid_equals_torchs_affine_grid(flip, monkeypatch):
    drawn = torch.rand(6, 4, generator=draws(3)) * 2 - 1
    monkeypatch.setattr(augmentation, "_uniform", lambda *_: drawn)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0]) if flip else torch.ones(4)
    maps = torch.zeros(4, 2, 3)
    for n, (turn, zoom, stretch, shear, right, down) in enumerate(0.7 * drawn.T):
        angle, zoom = augmentation._ROTATION * turn, torch.exp(augmentation._LOG_ZOOM * zoom)
        stretch = torch.exp(augmentation._LOG_ZOOM / 2 * stretch)
        maps[n] = torch.tensor(
            [
                [
                    zoom * angle.cos() * stretch * sign[n],
                    augmentation._SHEAR * shear - zoom * angle.sin(),
                    2 * augmentation._SHIFT * right,
                ],
                [
                    zoom * angle.sin() * sign[n],
                    zoom * angle.cos() / stretch,
                    2 * augmentation._SHIFT * down,
                ],
            ]
        )
    wanted = F.affine_grid(maps, [4, 1, 5, 7], align_corners=False)
    given = augmentation._affine_grid(sign, 5, 7, 0.7, draws())
    torch.testing.assert_close(given, wanted)


def test_a_shift_alone_moves_the_picture_by_whole_pixels(monkeypatch):
    x = noise(1, 1, 16, 16)
    for name in ("_ROTATION", "_LOG_ZOOM", "_SHEAR", "_BRIGHTNESS"):
        monkeypatch.setattr(augmentation, name, 0.0)
    monkeypatch.setattr(augmentation, "_uniform", lambda kinds, count, _: torch.ones(kinds, count))
    y = augmentation.random_augment(x, "affine", 1.0, generator=draws())  # 1/8 of 16 pixels is 2
    torch.testing.assert_close(y[..., :14, :14], x[..., 2:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(y[..., 14, :14], x[..., 15, 2:], atol=1e-5, rtol=0)


def test_an_even_picture_stays_even_and_light_stays_in_bounds():
    x = torch.full((500, 1, 8, 8), 2.0)
    y = augmentation.random_augment(
        x, "affine", 0.5, flipped=torch.arange(500) < 250, generator=draws()
    )
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    assert 2 * 0.9 - 0.1 <= y.min() < 2 < y.max() <= 2 * 1.1 + 0.1


@KINDS
def test_the_same_draws_give_the_same_pictures_channels_last(kind):
    one, two, other = (
        augmentation.random_augment(noise(6, 3, 16), kind, 1.0, generator=draws(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert one.shape == (6, 3, 16, 12)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 9), (1, 1, 2, 2)])
@KINDS
def test_the_smallest_pictures_are_changed_too(kind, shape):
    x, mirrored = torch.randn(shape, generator=draws()), torch.ones(shape[0], dtype=torch.bool)
    y = augmentation.random_augment(x, kind, 1.0, flipped=mirrored, generator=draws())
    y = augmentation.cutout(y, 1.0, draws())
    assert y.shape == shape
    assert torch.isfinite(y).all()


def test_colours_change_by_picture_and_channel_and_never_across_places():
    x = noise(200)
    y = augmentation.colour_jitter(x.clone(), 1.0, draws())
    assert not torch.allclose(x, y)
    # In each picture every colour goes where one 3x4 matrix sends it, the same at all places.
    before = torch.cat([x.flatten(2), torch.ones(200, 1, x[0, 0].numel())], 1).mT
    found = torch.linalg.lstsq(before, y.flatten(2).mT).solution
    assert torch.allclose(before @ found, y.flatten(2).mT, atol=1e-3)
    assert (found[:, 3].std(0) > 0.05).all()


def test_grey_is_not_coloured_and_no_strength_changes_nothing():
    x = noise(4, 1)
    assert torch.equal(augmentation.colour_jitter(x.clone(), 1.0, draws()), x)
    x = noise(4, 3)
    assert torch.equal(augmentation.colour_jitter(x.clone(), 0.0, draws()), x)


def test_mixup_blends_with_the_partner_by_lambda():
    x = noise(300)
    y, kept = augmentation.mixup_cutmix(x, 1.0, 0.0, draws())
    assert torch.allclose(y, torch.lerp(x.flip(0), x, kept[:, None, None, None]), atol=1e-5)
    assert 0.4 < kept.mean() < 0.6


def test_cutmix_copies_one_rectangle_and_lambda_is_the_rest():
    x = noise(300, height=16, width=16)
    y, kept = augmentation.mixup_cutmix(x, 0.0, 1.0, draws())
    is_other = (y == x.flip(0)).all(1)
    assert torch.equal((y == x).all(1), ~is_other)
    assert torch.allclose(1 - is_other.float().mean((1, 2)), kept)
    for hole in is_other:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        if len(rows):
            assert hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    assert 0.4 < kept.mean() < 0.6


def test_mixed_samples_match_the_requested_shares():
    x = noise(2000, 1, 4, 4)
    y, kept = augmentation.mixup_cutmix(x, 0.2, 0.3, draws())
    untouched = (y == x).flatten(1).all(1)
    assert torch.equal(kept[untouched], torch.ones(int(untouched.sum())))
    blended = ((y != x) & (y != x.flip(0))).flatten(1).any(1)
    assert 0.15 < blended.float().mean() < 0.25
    assert 0.45 < untouched.float().mean() < 0.62


def row(count=400, channels=2, length=32):
    return noise(count, channels, 1, length)


def test_a_stretch_of_a_signal_is_set_to_the_mean_in_all_channels():
    hidden = augmentation.cutout(torch.ones(2000, 3, 1, 32), 0.25, draws()) == 0
    assert torch.equal(hidden.all(1), hidden.any(1))
    lengths = hidden[:, 0, 0].sum(1)
    assert set(lengths.tolist()) == set(range(4, 9))  # At the ends half of it may be outside.
    inside = hidden[:, 0, 0].float()
    assert ((inside.diff(dim=1) != 0).sum(1) <= 2).all()


def test_of_a_signal_cutmix_copies_one_stretch():
    x = row()
    y, kept = augmentation.mixup_cutmix(x, 0.0, 1.0, draws())
    is_other = (y == x.flip(0)).all(1)[:, 0]
    assert torch.equal((y == x).all(1)[:, 0], ~is_other)
    assert torch.allclose(1 - is_other.float().mean(1), kept)
    assert ((is_other.float().diff(dim=1) != 0).sum(1) <= 2).all()
    assert 0.4 < kept.mean() < 0.6


def test_a_signal_is_shifted_in_time_scaled_by_channel_and_gets_noise(monkeypatch):
    """Without noise each channel of the answer is a straight line over a shift of the signal."""
    x = row(100)
    monkeypatch.setattr(augmentation, "_NOISE", 0.0)
    plain = augmentation.random_augment(x, "signal", 1.0, generator=draws())
    padded = F.pad(x, (4, 4, 0, 0), mode="reflect")
    shifts = torch.stack([padded[..., k : k + 32] for k in range(9)])
    centred = shifts - shifts.mean(-1, keepdim=True)
    answer = plain - plain.mean(-1, keepdim=True)
    gain = (centred * answer).sum(-1, keepdim=True) / centred.square().sum(-1, keepdim=True)
    fits = (gain * centred - answer).abs().amax((2, 3, 4)) < 1e-4
    assert (fits.sum(0) == 1).all()
    assert (fits.sum(1) > 0).all()
    best = gain[fits]
    assert (best - 1).abs().max() <= 0.2 + 1e-5
    assert (best[:, 0] - best[:, 1]).abs().max() > 0.05
    monkeypatch.setattr(augmentation, "_NOISE", 0.1)
    noisy = augmentation.random_augment(x, "signal", 1.0, generator=draws())
    assert (noisy - plain).std() == pytest.approx(0.1, rel=0.05)


def features(count=400):
    """Features (N, 1, 20, 16) that are silent but for one frame and band of each."""
    x = torch.full((count, 1, 20, 16), -2.0)
    where = torch.randint(6, 10, (2, count), generator=draws(3))
    x[torch.arange(count), 0, 4 + where[0], where[1]] = 6.0
    return x, 4 + where[0], where[1]


def test_sounds_move_a_little_in_time_and_pitch():
    x, frame, band = features()
    y = augmentation.random_augment(x, "audio", 1.0, generator=draws())
    assert y.shape == x.shape
    place = y.flatten(1).argmax(1)
    kept = y.flatten(1).max(1).values > 1  # The others are below a mask, or between two places.
    assert kept.float().mean() > 0.5
    moved = torch.stack([place // 16 - frame, place % 16 - band])[:, kept].abs()
    assert moved[0].max() in (3, 4, 5)  # A tenth of 20 frames, and 15 % of 10 by the speed.
    assert moved[1].max() in (1, 2)


def test_masks_are_whole_frames_and_whole_bands():
    x = torch.full((500, 1, 20, 16), 5.0)
    y = augmentation.random_augment(x, "audio", 1.0, generator=draws())
    masked = (y == 0)[:, 0]
    frames, bands = masked.all(2), masked.all(1)
    assert torch.equal(masked, frames[:, :, None] | bands[:, None, :])
    assert (frames.sum(1) <= 5).all()
    assert (bands.sum(1) <= 4).all()
    assert 0.08 < frames.float().mean() < 0.17  # A quarter of the frames at most, half of it usual.
    assert (frames[:, 1:].int() - frames[:, :-1].int()).abs().sum(1).max() <= 2  # One stretch.
