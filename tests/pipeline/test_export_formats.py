"""Formats of a run's artifact: written beside ONNX, kept and removed by later commands."""

from __future__ import annotations

import sys

import pytest

from lepton_automl import api
from lepton_automl.artifact import manifest
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verify import checked_verdict
from lepton_automl.config import Limits
from lepton_automl.core.decisions import SHIPPING_FORMAT
from lepton_automl.cost import boards
from lepton_automl.errors import ArchError, ConfigError, InfeasibleError
from lepton_automl.models.format_session import FormatSession
from lepton_automl.pipeline import run as pipeline
from lepton_automl.runs.folder import configured, locate
from tests.helpers import packed_format, runs

pytestmark = pytest.mark.usefixtures("children_answer_here")
PACKED = {"packed/net.gz", "packed/README", "golden/packed.npy"}


@pytest.fixture(autouse=True, scope="module")
def _packed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        packed_format.install(tmp_path_factory.mktemp("site"), patch)
        yield
    sys.modules.pop("packed_format", None)


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_formats_are_added_kept_and_removed_by_export(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    artifact = config.out / "artifact"
    plain, int8 = files_of(artifact), (artifact / "model.int8.onnx").read_bytes()
    made = api.export(config.out, formats=["onnx", "packed"])
    assert files_of(artifact) == plain | PACKED
    assert made.verdict.formats[0].metrics.accuracy == finished_run[1].verdict.int8.accuracy
    assert (artifact / "model.int8.onnx").read_bytes() == int8
    assert checked_verdict(artifact) == made.verdict
    shipped = api.export(config.out, ship="packed").verdict
    assert shipped.shipped.file == "packed/net.gz"
    kept = api.export(config.out).verdict
    assert (kept.ship, [one.name for one in kept.formats]) == ("packed", ["packed"])
    assert api.verify(config.out).verdict.formats[0].max_difference == 0
    without = api.export(config.out, formats=["onnx"]).verdict
    assert (without.ship, without.formats) == ("onnx", ())
    assert files_of(artifact) == plain
    assert manifest.is_complete(artifact)


def test_a_finished_run_is_exported_again_where_other_formats_are_asked_for(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    options = {"out": config.out, "space": config.space, "jobs": 1, "trials": config.trials}
    options |= {"objectives": config.objectives, "seed": config.seed}
    events = []
    found = api.run(config.data, formats=["packed"], emit=events.append, **options)
    assert found.verdict.formats[0].not_run == ""
    again = api.run(config.data, formats=["packed"], emit=events.append, **options)
    assert again.verdict == found.verdict
    assert any("already finished" in str(event) for event in events)
    assert api.run(config.data, **options).verdict == found.verdict


def test_the_format_that_was_chosen_by_its_time_is_kept_and_overruled(
    finished_run, tmp_path, monkeypatch
):
    config = runs.copy(finished_run[0], tmp_path)
    options = {"out": config.out, "space": config.space, "jobs": 1, "trials": config.trials}
    options |= {"objectives": config.objectives, "seed": config.seed, "prefer": "latency"}
    times = {"own": 0.5}
    monkeypatch.setattr(
        FormatSession, "times", lambda *_, rounds, seconds: ([times["own"]] * 15, [1.0] * 15)
    )
    definition = (config.out / "run.toml").read_text()
    changed = definition.replace('prefer = "size"', 'prefer = "latency"')
    assert changed != definition
    (config.out / "run.toml").write_text(changed)
    found = api.run(config.data, formats=["packed"], **options)
    assert found.verdict.ship == "packed"
    (decision,) = [each for each in found.decisions if each.name == SHIPPING_FORMAT]
    assert (decision.choice, decision.option) == ("packed", "--ship onnx")
    card = (found.artifact / "MODEL_CARD.md").read_text()
    assert "packed/net.gz`, chosen by `--prefer latency" in card
    assert SHIPPING_FORMAT in card
    times["own"] = 2.0  # What was measured once is not measured again.
    assert api.run(config.data, formats=["packed"], **options).verdict == found.verdict
    assert api.export(config.out).verdict.ship == "packed"
    stated = api.export(config.out, formats=["packed"], ship="onnx")
    assert stated.verdict.ship == "onnx"
    assert all(each.name != SHIPPING_FORMAT for each in stated.decisions)
    assert api.export(config.out).verdict.ship == "onnx"


def test_rejection_is_added_kept_and_removed_by_export(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    artifact = config.out / "artifact"
    before = runs.digests(artifact)
    for rate, word in ((0.0001, "validation"), (0.7, "1e-06 to 0.5")):
        with pytest.raises(ConfigError, match=word):
            api.export(config.out, reject=rate)
    assert runs.digests(artifact) == before
    made = api.export(config.out, reject=0.2)
    about = read_provenance(artifact)
    assert about.reject_rate == 0.2
    is_fitted = not about.refit
    assert (made.verdict.rejection is not None) == bool(about.reject_below) == is_fitted
    assert "none of these" in [each.name for each in made.decisions]
    assert api.export(config.out, formats=["onnx"]).verdict.rejection == made.verdict.rejection
    assert api.export(config.out, reject=0).verdict.rejection is None
    assert read_provenance(artifact).reject_rate == 0


def test_a_net_trained_on_the_validation_part_cannot_have_a_threshold(tmp_path):
    with pytest.raises(ConfigError, match="--refit on"):
        api.run("digits", out=tmp_path / "run", trials=1, reject=0.05, refit="on")


def test_an_unknown_format_changes_nothing(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    before = runs.digests(config.out / "artifact")
    for options in ({"formats": ["pakced"]}, {"ship": "pakced"}):
        with pytest.raises(ConfigError) as caught:
            api.export(config.out, **options)
        assert "did you mean 'packed'" in caught.value.fix
    assert runs.digests(config.out / "artifact") == before


def test_a_format_that_cannot_hold_the_nets_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch
):
    from packed_format import Packed

    def refuse(self, net, words, golden):
        raise ArchError("it has no room", fix="take another")

    monkeypatch.setattr(Packed, "files", refuse)
    with pytest.raises(ConfigError, match="the format packed cannot hold these nets"):
        api.run("digits", out=tmp_path / "run", ship="packed", trials=1)
    assert not (tmp_path / "run").exists()


def test_a_board_that_is_too_small_is_told_with_what_would_fit(tmp_path):
    board = tmp_path / "mine.toml"
    board.write_text('[mine]\ncore = "cortex-m0"\nclock_mhz = 8\nflash_kib = 9\nram_kib = 5\n')
    with pytest.raises(InfeasibleError, match="nothing was trained") as caught:
        api.search("digits", out=tmp_path / "run", board=board, space="tiny", trials=1, jobs=1)
    assert "--max-flash-kb" in caught.value.fix
    assert "--board " in caught.value.fix
    assert any(name in caught.value.fix for name in boards.names())
    assert caught.value.exit_code == 5
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_the_board_of_a_search_is_that_of_its_artifact(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    (config.out / "board.toml").write_text(boards.load("nucleo-f401re").to_toml())
    verdict = api.export(config.out, formats=["packed"]).verdict
    assert verdict.board.board == boards.load("nucleo-f401re")


def test_a_search_keeps_its_board(tmp_path):
    out, space = tmp_path / "run", tmp_path / "quick.toml"
    space.write_text(runs.SPACE.replace(f"epochs = {runs.EPOCHS}", "epochs = 1"))
    data = str(runs.quick_data(tmp_path))
    api.search(data, out=out, board="nucleo-f401re", space=str(space), trials=1, jobs=1)
    again = configured(locate(out))
    assert boards.load(again.board) == boards.load("nucleo-f401re")
    assert (again.limits, again.target) == (
        Limits(**boards.load("nucleo-f401re").limits),
        "microcontroller",
    )
    assert again.shipped_format == "c"


def test_a_board_is_recorded_and_judged(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    again = configured(locate(config.out), formats=("packed",), board="nucleo-l432kc")
    verdict = pipeline.export(again).verdict
    assert read_provenance(config.out / "artifact").board.name == "nucleo-l432kc"
    assert (verdict.board.flash_bytes, verdict.board.ram_bytes) == (7000, 500)
    assert (verdict.board.fit, verdict.board.basis) == ("fits", "measured")
    kept = api.export(config.out, formats=["onnx"]).verdict
    assert kept.board.basis == "predicted"
    fits = {found.board.name: found for found in api.board_fits(config.out)}
    assert fits.keys() == set(boards.names())
    assert fits["nucleo-l432kc"].fit == "fits"
    assert fits["nucleo-l432kc"] == kept.board


@pytest.mark.parametrize("ship", ["onnx", "any_size"])
def test_a_limit_on_flash_does_not_bind_an_onnx_file(tmp_path, ship):
    with pytest.raises(ConfigError, match=f"C code, and --ship {ship} ships an ONNX file"):
        api.run("digits", out=tmp_path / "run", ship=ship, board="nucleo-l432kc", trials=1)
