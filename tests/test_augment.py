"""Random changes against torch's affine grid and pictures whose change is known."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lepton_automl import augment


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=6, channels=3, height=9, width=12):
    return torch.randn(count, channels, height, width, generator=draws(9))


def test_no_strength_changes_nothing():
    x = noise()
    assert torch.equal(augment.changed(x, 0.0, flip=False, generator=draws()), x)


def test_a_flip_alone_mirrors_about_half_and_leaves_the_rest():
    x = noise(200)
    y = augment.changed(x, 0.0, flip=True, generator=draws())
    mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(x, y, strict=True)]
    same = [torch.equal(b, a) for a, b in zip(x, y, strict=True)]
    assert 70 < sum(mirrored) < 130
    assert sum(mirrored) + sum(same) == 200


@pytest.mark.parametrize("flip", [False, True])
def test_places_are_those_of_torchs_affine_grid(flip, monkeypatch):
    drawn = torch.rand(6, 4, generator=draws(3)) * 2 - 1
    monkeypatch.setattr(augment, "_even", lambda *_: drawn)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0]) if flip else torch.ones(4)
    maps = torch.zeros(4, 2, 3)
    for n, (turn, zoom, stretch, shear, right, down) in enumerate(0.7 * drawn.T):
        angle, zoom = augment.TURN * turn, torch.exp(augment.ZOOM * zoom)
        stretch = torch.exp(augment.ZOOM / 2 * stretch)
        maps[n] = torch.tensor(
            [
                [
                    zoom * angle.cos() * stretch * sign[n],
                    augment.SHEAR * shear - zoom * angle.sin(),
                    2 * augment.SHIFT * right,
                ],
                [
                    zoom * angle.sin() * sign[n],
                    zoom * angle.cos() / stretch,
                    2 * augment.SHIFT * down,
                ],
            ]
        )
    wanted = F.affine_grid(maps, [4, 1, 5, 7], align_corners=False)
    given = augment._places(sign, 5, 7, 0.7, draws())
    torch.testing.assert_close(given, wanted)


def test_a_shift_alone_moves_the_picture_by_whole_pixels(monkeypatch):
    x = noise(1, 1, 16, 16)
    for name in ("TURN", "ZOOM", "SHEAR", "LIGHT"):
        monkeypatch.setattr(augment, name, 0.0)
    monkeypatch.setattr(augment, "_even", lambda kinds, count, _: torch.ones(kinds, count))
    y = augment.changed(x, 1.0, flip=False, generator=draws())  # 1/8 of 16 pixels is 2
    torch.testing.assert_close(y[..., :14, :14], x[..., 2:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(y[..., 14, :14], x[..., 15, 2:], atol=1e-5, rtol=0)


def test_an_even_picture_stays_even_and_light_stays_in_bounds():
    x = torch.full((500, 1, 8, 8), 2.0)
    y = augment.changed(x, 0.5, flip=True, generator=draws())
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    assert 2 * 0.9 - 0.1 <= y.min() < 2 < y.max() <= 2 * 1.1 + 0.1


def test_the_same_draws_give_the_same_pictures_channels_last():
    one, two, other = (
        augment.changed(noise(), 1.0, flip=True, generator=draws(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert one.shape == noise().shape


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 9), (1, 1, 2, 2)])
def test_the_smallest_pictures_are_changed_too(shape):
    y = augment.changed(torch.randn(shape, generator=draws()), 1.0, flip=True, generator=draws())
    assert y.shape == shape
    assert torch.isfinite(y).all()
