from __future__ import annotations

import math

import pytest

from lepton_automl.errors import SpaceError
from lepton_automl.search.space import loader, tables

GOOD = """\
doc = "a test space"
[input]
resolution = ["native", 16]
example = [16, 16, 1]
[all]
activation = ["relu", "hswish"]
[stem]
out = [8, 16]
[[stage]]
layer = ["conv", "mbconv"]
out = { low = 8, high = 24, step = 8 }
depth = [1, 2, 0]
stride = 2
[stage.mbconv]
expand = [2, 3]
[head]
features = 0
[train]
optimizer = ["sgd", "adamw"]
epochs = 9
sgd = { lr = [0.1, 0.2] }
adamw.lr = 1e-2
[[candidate]]
name = "only"
stem.out = 16
stage1 = { layer = "mbconv", mbconv.expand = 3 }
train.sgd.lr = 0.2
"""

MISTAKES = {
    "unknown section": ("[head]", "[heads]", 16, ["'heads'", "did you mean 'head'?"]),
    "unknown layer": ('"mbconv"]', '"mbcomv"]', 10, ["'mbcomv'", "did you mean 'mbconv'?"]),
    "unknown field": ("stride = 2", "strid = 2", 13, ["'strid'", "did you mean 'stride'?"]),
    "unknown field of one layer": ("expand = [2, 3]", "expant = 2", 15, ["did you mean 'expand'"]),
    "unknown recipe field": ("epochs = 9", "epoch = 9", 20, ["did you mean 'epochs'?"]),
    "unknown optimizer": ('"adamw"]', '"adam"]', 19, ["sgd, adamw or muon"]),
    "table of a layer not chosen": ("[stage.mbconv]", "[stage.sepconv]", 14, ["'sepconv'"]),
    "unknown part of a range": ("step = 8", "steps = 8", 11, ["did you mean 'step'?"]),
    "range that misses its end": ("high = 24", "high = 25", 11, ["leads from low to high"]),
    "range without an end": ("high = 24, ", "", 11, ["leads from low to high"]),
    "illegal choice": ("expand = [2, 3]", "expand = [2, 5]", 15, ["expand = 5", "one of"]),
    "wrong kind": ("stride = 2", 'stride = "2"', 13, ["another type than 1"]),
    "true is not one": ("stride = 2", "stride = true", 13, ["another type than 1"]),
    "too many channels": ("out = [8, 16]", "out = [8, 9999]", 8, ["1 to 4096"]),
    "no channels": ("out = [8, 16]", "out = [0, 8]", 8, ["0"]),
    "empty choice": ("out = [8, 16]", "out = []", 8, ["no value"]),
    "repeated value": ("out = [8, 16]", "out = [8, 8]", 8, ["repeats"]),
    "inner width that the layer sets": ("expand = [2, 3]", "hidden = 8", 15, ["'hidden'"]),
    "illegal learning rate": ("lr = [0.1, 0.2]", "lr = [0.1, -1.0]", 21, ["lr = -1.0"]),
    "illegal depth": ("depth = [1, 2, 0]", "depth = [1.5]", 12, ["depth = 1.5"]),
    "head as a stage": ('"mbconv"]', '"head"]', 10, ["[head]"]),
    "illegal resolution": ('["native", 16]', '["nativ", 16]', 3, ["'nativ'", "'native'"]),
    "illegal example": ("[16, 16, 1]", "[16]", 4, ["height, width and channels"]),
    "stage that is one table": ("[[stage]]\n", "[stage]\n", 9, ["[[stage]]"]),
    "field all layers lack": ("activation = [", "actvation = [", 6, ["did you mean 'activation'?"]),
    "unknown candidate parameter": ("stem.out = 16", "stem.outs = 16", 25, ["'stem.out'"]),
    "candidate outside the choices": ("stem.out = 16", "stem.out = 24", 25, ["8 | 16"]),
    "candidate outside in a table": ("mbconv.expand = 3", "mbconv.expand = 4", 26, ["2 | 3"]),
    "stage without a layer": ('layer = ["conv", "mbconv"]\n', "", 9, ["no layer"]),
    "two candidates of one name": ("[[candidate]]", "[[candidate]]\nname='only'\n[[candidate]]",
                                   26, ["'only'"]),
    "not TOML": ("[head]", "[head", 16, ["line 16"]),
}  # fmt: skip


def load(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return loader.load(path)


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_reported_with_its_line_and_fix(case, tmp_path):
    before, after, line, words = MISTAKES[case]
    assert GOOD.count(before) == 1
    with pytest.raises(SpaceError) as caught:
        load(tmp_path, GOOD.replace(before, after))
    message = str(caught.value)
    assert f"line {line}" in message
    assert "mine.toml" in message
    for word in words:
        assert word in message


STAGE = '[[stage]]\nlayer = "conv"\nout = { low = 1, high = 4000 }\n'


def test_values_and_stages_of_a_file_are_bounded_whatever_a_line_stands_for(tmp_path, monkeypatch):
    few = GOOD.replace("[head]", f"{2 * STAGE}[head]")
    assert load(tmp_path, few).parameters()["stage2.out"].values[-1] == 4000
    checked = []
    check = tables._check_value
    monkeypatch.setattr(tables, "_check_value", lambda *a: checked.append(a) or check(*a))
    with pytest.raises(SpaceError, match="more than 50,000 values together"):
        load(tmp_path, GOOD.replace("[head]", f"{40 * STAGE}[head]"))
    assert len(checked) < 60_000
    stages = 300 * '[[stage]]\nlayer = "conv"\nout = 8\n'
    with pytest.raises(SpaceError, match="301 stages, at most 256"):
        load(tmp_path, GOOD.replace("[head]", f"{stages}[head]"))


def test_the_choices_of_a_file_are_its_parameters(tmp_path):
    found = load(tmp_path, GOOD)
    assert {path: parameter.values for path, parameter in found.parameters().items()} == {
        "input.resolution": ("native", 16),
        "stem.out": (8, 16),
        "all.activation": ("relu", "hswish"),
        "stage1.depth": (1, 2, 0),
        "stage1.layer": ("conv", "mbconv"),
        "stage1.out": (8, 16, 24),
        "stage1.mbconv.expand": (2, 3),
        "train.optimizer": ("sgd", "adamw"),
        "train.sgd.lr": (0.1, 0.2),
    }


def test_the_number_of_points_is_that_of_all_distinct_settings(tmp_path):
    stage = 2 * (3 + 3 * 2) + 1  # depth 1 or 2: conv (out), mbconv (out, expand); depth 0
    train = 2 + 1
    assert load(tmp_path, GOOD).points == math.prod([2, 2, 2, stage, train])


def test_a_candidate_is_completed_with_the_first_of_every_choice(tmp_path):
    assert load(tmp_path, GOOD).candidates == (
        {
            "input.resolution": "native",
            "stem.out": 16,
            "all.activation": "relu",
            "stage1.depth": 1,
            "stage1.layer": "mbconv",
            "stage1.out": 8,
            "stage1.mbconv.expand": 3,
            "train.optimizer": "sgd",
            "train.sgd.lr": 0.2,
        },
    )


def test_the_digest_names_the_content_and_not_its_layout(tmp_path):
    first = load(tmp_path, GOOD)
    assert load(tmp_path, "# a comment\n" + GOOD.replace(" = ", "=")).digest == first.digest
    assert load(tmp_path, GOOD.replace("epochs = 9", "epochs = 8")).digest != first.digest


def test_an_unknown_space_suggests_the_nearest():
    with pytest.raises(SpaceError, match="did you mean 'residual'"):
        loader.load("residul")


def test_a_path_without_a_file_is_a_space_error(tmp_path):
    with pytest.raises(SpaceError, match="cannot be read"):
        loader.load(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match="cannot be read"):
        loader.load(tmp_path / "binary.toml")


def test_the_text_is_kept_as_it_was_read(tmp_path):
    assert load(tmp_path, GOOD).text == GOOD


def test_candidates_are_those_for_the_size_of_the_pictures(tmp_path):
    named = [f'[[candidate]]\nname = "c{n}"\nmin_side = {n}\nstem.out = 8\n' for n in (64, 1, 32)]
    found = load(tmp_path, GOOD[: GOOD.index("[[candidate]]")] + "\n".join(named))
    assert found.candidate_sides == (64, 1, 32)
    own = found.candidates
    assert found.candidates_for((31, 8)) == [own[0], own[1]]  # The first one always is.
    assert found.candidates_for((8, 32)) == list(own)
    assert found.candidates_for(None) == list(own)
    assert len(found.with_fixed("lr", value=0.1).candidates_for((8, 8))) == 2


@pytest.mark.parametrize("side", ['"64"', "0", "true", "2.5"])
def test_a_least_side_that_is_no_number_of_pixels_is_refused(tmp_path, side):
    text = GOOD.replace("[[candidate]]", f"[[candidate]]\nmin_side = {side}")
    with pytest.raises(SpaceError, match="min_side"):
        load(tmp_path, text)


def few(text):
    return GOOD.replace("[[candidate]]", f"[few]\n{text}\n\n[[candidate]]", 1)


def test_candidates_of_few_samples_have_the_values_that_the_space_names(tmp_path):
    plain = load(tmp_path, GOOD)
    path, parameter = next(
        (path, each)
        for path, each in plain.parameters().items()
        if path.startswith("train.") and len(each.values) > 1 and path in plain.candidates[0]
    )
    other = next(v for v in parameter.values if v != plain.candidates[0][path])
    shown = f'"{other}"' if isinstance(other, str) else str(other).lower()
    found = load(tmp_path, few(f"samples = 100\n{path} = {shown}"))
    assert found.candidates == plain.candidates
    assert found.for_samples(100) == found
    changed = found.for_samples(99).candidates
    assert changed == tuple(one | {path: other} for one in plain.candidates)
    assert found.for_samples(99).has_few_samples
    assert not found.for_samples(100).has_few_samples
    assert found.for_samples(99).digest == found.digest
    assert plain.for_samples(1) == plain


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train.lr = 0.1", "samples = None"),
        ("samples = 0", "samples = 0"),
        ('samples = "few"', "samples = 'few'"),
        ("samples = 9\ntrain.nothing = 1", "train.nothing"),
        ("samples = 9\ntrain.sgd.lr = 0.3", "train.sgd.lr = 0.3"),
    ],
)
def test_a_wrong_table_for_few_samples_is_refused(tmp_path, text, named):
    with pytest.raises(SpaceError, match=named):
        load(tmp_path, few(text))
