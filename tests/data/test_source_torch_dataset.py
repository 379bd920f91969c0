from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import lepton_automl
from lepton_automl import api
from lepton_automl.config import Limits
from lepton_automl.data.opening import locate_data, open_dataset
from lepton_automl.data.sources.torch_dataset import TorchDataset
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.runs.folder import default_out
from tests.helpers.pictures import random_pictures, write_npz
from tests.helpers.runs import OBJECTIVES, SPACE

X = random_pictures(24, (9, 7, 3))
Y = np.arange(24) % 2


def example(_folder):
    return "tests.data.test_source_torch_dataset:make"


class Pairs:
    """A map-style data set, as torch's are."""

    def __init__(self, xs, ys, classes=None):
        self.xs, self.ys = xs, ys
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.ys)

    def __getitem__(self, place):
        return self.xs[place], self.ys[place]


class Subset:
    """As torch's Subset: a data set of another one."""

    def __init__(self, dataset, places):
        self.dataset, self.places = dataset, places

    def __len__(self):
        return len(self.places)

    def __getitem__(self, place):
        return self.dataset[self.places[place]]


class Noisy(Pairs):
    """Of random augmentation: no two readings are alike."""

    readings = 0

    def __getitem__(self, place):
        self.readings += 1
        return self.xs[place] ^ np.uint8(self.readings % 251), self.ys[place]


class Broken(Pairs):
    def __getitem__(self, place):
        return X[place] if place < 5 else 1 / 0, self.ys[place]


def make():
    return Pairs(X, Y, ["no", "yes"])


def opened(dataset, **options):
    return open_dataset("<Pairs object>", data_object=dataset, **options)


def of_npz(tmp_path, x=X, **more):
    return open_dataset(write_npz(tmp_path / "x.npz", **({"x": x, "y": Y} | more)))


def torch():
    return pytest.importorskip("torch")


ITEMS = {
    "images": lambda: Pairs([Image.fromarray(x) for x in X], Y.tolist()),
    "channels first": lambda: Pairs(X.transpose(0, 3, 1, 2), Y),
    "tensors": lambda: Pairs(torch().from_numpy(X).permute(0, 3, 1, 2), torch().from_numpy(Y)),
    # As ToTensor of torchvision makes them.
    "floats": lambda: Pairs((X.transpose(0, 3, 1, 2) / 255).astype(np.float32), Y),
    "one-hot": lambda: Pairs(X, np.eye(2)[Y]),
    # As the package medmnist has it.
    "labels in rows of one": lambda: Pairs([Image.fromarray(x) for x in X], Y[:, None]),
    "fields": lambda: [{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)],
    "list": lambda: list(zip(X, Y.tolist(), strict=True)),
    "subset": lambda: Subset(Pairs(X[::-1], Y[::-1]), range(23, -1, -1)),
    "several shapes": lambda: Pairs([X[0], *X[1:]], Y),
}


@pytest.mark.parametrize("made", ITEMS.values(), ids=ITEMS)
def test_items_of_every_kind_are_the_pictures_of_an_npz_file(tmp_path, made):
    one, other = opened(made()), of_npz(tmp_path)
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.pixels("train", (9, 7)), other.pixels("train", (9, 7)))
    assert one.preprocessing((9, 7)) == other.preprocessing((9, 7))


def test_signals_are_those_of_an_npz_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(24, 3, 40)).astype(np.float32)
    one, other = opened(Pairs(x, Y)), of_npz(tmp_path, x)
    assert one.is_signal
    assert (one.fingerprint, one.input_quantization) == (
        other.fingerprint,
        other.input_quantization,
    )


def test_pictures_of_several_sizes_share_one_pixel_scale():
    rng = np.random.default_rng(0)
    sizes = [(5 + n % 3, 6) for n in range(24)]
    deep = [rng.integers(0, 4096, size, np.uint16) for size in sizes]
    found = opened(Pairs(deep, Y))
    assert found.size is None
    assert found.pixel_scale is not None
    assert found.pixel_scale.name == "12bit"
    for part in found.parts:
        for name, pixels in zip(part.ids, part.pictures, strict=True):
            place = int(name[2:-1])
            np.testing.assert_array_equal(
                pixels[..., 0], (deep[place] * 255.0 / 4095 + 0.5).astype(np.uint8)
            )


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_parts_are_kept(tmp_path, kind):
    train, test = Pairs(X[:16], Y[:16], ["no", "yes"]), Pairs(X[16:], Y[16:])
    found = opened({"test": test, "train": train} if kind == "dict" else (train, test))
    arrays = {"x_train": X[:16], "y_train": Y[:16], "x_test": X[16:], "y_test": Y[16:]}
    path = write_npz(tmp_path / "x.npz", class_names=np.array(["no", "yes"]), **arrays)
    assert found.fingerprint == open_dataset(path).fingerprint
    assert found.class_names == ("no", "yes")


def test_names_of_classes_and_groups_come_from_the_data_set():
    dataset = Subset(make(), range(24))
    dataset.groups = np.arange(24) // 4
    found = opened(dataset)
    assert found.class_names == ("no", "yes")
    for part in found.parts:
        assert len(part.groups) == 4 * len(set(part.groups.tolist()))


def test_the_code_of_a_module_is_said_to_run():
    lines = []
    name = example(None)
    found = open_dataset(name, emit=lines.append)
    assert found.class_names == ("no", "yes")
    assert any("ran" in line.message or "run" in line.message for line in lines)
    assert locate_data(name).place == name
    assert default_out(name).name == "tests.data.test_source_torch_dataset-make"


def test_a_module_of_the_working_directory_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_pictures.py").write_text(
        "import numpy as np\nprint('loading')\n"
        "x = np.random.default_rng(0).integers(0, 256, (24, 5, 4), np.uint8)\n"
        "data = [(p, 'ab'[n % 2]) for n, p in enumerate(x)]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert open_dataset("my_pictures:data").class_names == ("a", "b")
    assert "loading" not in capsys.readouterr().out, "standard output is for results"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Noisy(X, Y), "other values at a second reading"),
        (
            Broken(X, Y),
            r"item 5 of x raised ZeroDivisionError.*test_source_torch_dataset\.py, line",
        ),
        (Pairs(X, [None] * 24), r"x\[0\] has a label of the type NoneType"),
        (Pairs(X, [0, "a"] * 12), "several kinds"),
        (Pairs(["a"] * 24, Y), "a picture of the type str"),
        (Pairs([], []), "holds no samples"),
        (Pairs, "is the class Pairs"),
        (X, "ndarray"),
        ((X, Y), "ndarray"),
        (5, "no __len__"),
        ({"left": make()}, "'left'"),
        ((make(),), "tuple of 1"),
        ([(x,) for x in X], "tuple of 1"),
        ([{"image": x} for x in X], "dict with 'image'"),
        (Pairs(X, np.arange(24) % 3, ["a", "b"]), "the rule is 0 to 1"),
        (Pairs([x[..., [0, 1, 2, 0, 1]] for x in X[:-1]] + [X[0]], Y), "shape"),
    ],
)
def test_what_is_no_data_set_is_one_message(dataset, message):
    with pytest.raises(DataError, match=message):
        opened(dataset)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:data", "No module named"),
        ("tests.data.test_source_torch_dataset:missing", "no 'missing'"),
        ("tests.data.test_source_torch_dataset:Pairs", "is the class Pairs"),
        ("<Pairs object>", "only the program that made it"),
    ],
)
def test_names_that_lead_to_no_data_set_are_one_message(name, message):
    with pytest.raises(DataError, match=message):
        open_dataset(name)


def test_data_that_exist_are_never_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert not TorchDataset().accepts("a:b")
    assert not TorchDataset().accepts("c:/pictures")


def test_a_run_from_an_object_is_continued_with_it(tmp_path):
    """The workers read decoded copies; only opening the data needs the object."""
    dataset = Pairs(random_pictures(60, (8, 8, 1)), (np.arange(60) % 2).tolist())
    (tmp_path / "few.toml").write_text(SPACE)
    settings = {"out": tmp_path / "run", "trials": 1, "jobs": 1, "folds": "off"}
    settings |= {"space": tmp_path / "few.toml", "objectives": OBJECTIVES, "refit": "off"}
    found = api.search(dataset, **settings)
    again = api.search(dataset, **settings)
    assert again.best.digest == found.best.digest
    with pytest.raises(DataError, match="only the program that made it has"):
        api.compress(tmp_path / "run")
    assert lepton_automl.status(tmp_path / "run") is not None

    made = api.compress(tmp_path / "run", dataset, device="cpu")
    assert made.int8.qparams is not None
    for function in (api.compress, api.export, api.pick):
        wanted = {"limits": Limits(max_size_bytes=10**6)} if function is api.pick else {}
        other = Pairs(random_pictures(60, (8, 8, 1), seed=5), (np.arange(60) % 2).tolist())
        with pytest.raises(ConfigError, match=r"data"):
            function(tmp_path / "run", other, **wanted)
        with pytest.raises(DataError, match="only the program that made it has"):
            function(tmp_path / "run", **wanted)
    outcome = api.export(tmp_path / "run", Wrapped(dataset))
    assert outcome.verdict.parity.holds
    assert outcome.artifact.is_dir()
    picked = api.pick(tmp_path / "run", dataset, limits=Limits(max_size_bytes=10**6))
    assert picked.outcome.verdict.int8.size_bytes < 10**6


def test_a_data_set_of_sound_has_a_way_out():
    items = [{"audio": {"bytes": b"RIFF", "path": "a.wav"}, "label": 0}]
    with pytest.raises(DataError, match="is a dict with 'audio', 'label'") as caught:
        TorchDataset(dataset=items).read("")
    assert "to_parquet('sound.parquet')" in caught.value.fix


class Wrapped:
    """The same items by an object of another class."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        return self.data[place]


def test_data_are_given_again_only_to_runs_from_objects(finished_run):
    config, _ = finished_run
    for function in (api.export, api.pick, api.compress):
        wanted = {"prefer": "size"} if function is api.pick else {}
        with pytest.raises(ConfigError, match="reads its own"):
            function(config.out, Wrapped([]), **wanted)
