"""The example classifies as `lepton predict` does, without lepton."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.artifact.predict import predict
from tests.helpers.artifacts import make_bundle

SCRIPT = Path(__file__).parents[2] / "examples" / "classify.py"


def write_pictures(folder: Path) -> list[Path]:
    """Pictures in every mode a user meets, of different sizes."""
    rng = np.random.default_rng(1)
    base = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize((50, 37))
    alpha = base.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(base.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
    saves = {
        "plain.png": (base, {}),
        "small.png": (base.resize((8, 8)), {}),
        "turned.jpg": (base, {"exif": exif}),
        "clear.png": (alpha, {}),
        "cmyk.jpg": (base.convert("CMYK"), {}),
        "palette.gif": (base.convert("P"), {}),
        "grey16.png": (grey16, {}),
        "grey.png": (base.convert("L"), {}),
        "bits.png": (base.convert("1"), {}),
    }
    for name, (picture, options) in saves.items():
        picture.save(folder / name, **options)
    return [folder / name for name in saves]


def test_it_imports_only_onnxruntime_numpy_and_pillow():
    tree = ast.parse(SCRIPT.read_text())
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"onnxruntime", "numpy", "PIL"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made")).folder / "model.int8.onnx"


def test_it_answers_as_lepton_predict_does(model, tmp_path):
    files = write_pictures(tmp_path)
    rows = predict(model, files)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    child = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), str(model), *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    expected = [f"{row.file}\t{row.label}\t{row.probability:.4f}" for row in rows]
    assert child.stdout.splitlines() == expected
    assert len({row.probability for row in rows}) == len(rows)


def test_the_code_in_the_model_card_runs(model, tmp_path):
    from lepton_automl.artifact.model_card import card
    from lepton_automl.artifact.provenance import read_provenance
    from tests.helpers.artifacts import verdict

    code = card(verdict(), read_provenance(model.parent)).split("```python\n")[1].split("```")[0]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
    picture.save(model.parent / "picture.png")
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=model.parent
    )
    assert child.stdout.strip() == predict(model, [model.parent / "picture.png"])[0].label


def test_labels_in_the_file_are_those_of_the_data(model):
    import onnxruntime

    words = onnxruntime.InferenceSession(str(model)).get_modelmeta().custom_metadata_map
    assert json.loads(words["labels"]) == (model.parent / "labels.txt").read_text().splitlines()


def test_the_sampler_finds_nearly_the_best_can_in_an_ordinary_study():
    """The optimum by a fine grid, within the constraint and with both kinds of wall."""
    script = Path(__file__).parents[2] / "examples" / "optuna_sampler.py"
    child = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    )

    def metal(diameter, wall):
        return (1_320_000 / diameter * wall + np.pi * diameter**2 / 2 * 0.3) / 1000

    best = metal(np.linspace(40, 80, 4001), 0.20).min()
    found = float(child.stdout.split()[0])
    assert best - 0.01 <= found <= 1.05 * best
    assert "'ribs': True" in child.stdout
