from __future__ import annotations

import itertools
import json

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl import api
from lepton_automl.api_options import run_config
from lepton_automl.cli.app import app
from lepton_automl.cli.options import OUTPUT_PARAMETERS
from lepton_automl.errors import ConfigError
from lepton_automl.pipeline import sweep_file
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.pipeline.sweep_file import read_sweep
from tests.helpers.artifacts import verdict
from tests.helpers.cli import Lepton


def read(folder, text):
    path = folder / "sweep.toml"
    path.write_text(text)
    return read_sweep(path)


def options(sweep):
    return [dict(cell.options) for cell in sweep.cells]


def test_lists_and_ranges_make_a_product_and_scalars_are_fixed(tmp_path):
    made = read(
        tmp_path,
        '[run]\ndata = ["a.npz", "b/"]\nseed = { low = 0, high = 2 }\nbudget = "3m"\njobs = 1\n',
    )
    wanted = [
        {"data": data, "seed": seed, "budget": "3m", "jobs": 1}
        for data, seed in itertools.product(("a.npz", "b/"), range(3))
    ]
    assert options(made) == wanted
    assert made.varied == ("data", "seed")
    assert [cell.name for cell in made.cells][:2] == ["a_seed=0", "a_seed=1"]


def test_a_row_replaces_options_of_run_and_its_choices_multiply(tmp_path):
    made = read(
        tmp_path,
        '[run]\ndata = "a"\nseed = [0, 1]\nmax-size-kb = 10\n'
        '[[row]]\n[[row]]\ndata = ["b", "c"]\nseed = 7\n[[row]]\nskip-corrupt = true\nseed = 2\n',
    )
    assert options(made) == [
        {"data": "a", "seed": 0, "max-size-kb": 10},
        {"data": "a", "seed": 1, "max-size-kb": 10},
        {"data": "b", "seed": 7, "max-size-kb": 10},
        {"data": "c", "seed": 7, "max-size-kb": 10},
        {"data": "a", "seed": 2, "max-size-kb": 10, "skip-corrupt": True},
    ]


def test_a_sweep_knows_the_options_of_run_and_no_others():
    named = {option.name for option in typer.main.get_command(app).commands["run"].params}
    here = {name.replace("-", "_") for name in sweep_file.option_names()}
    assert here == named - {"out", "fresh", *OUTPUT_PARAMETERS}


@pytest.mark.parametrize(
    ("line", "message", "fix"),
    [
        ("max_size_kb = 20", "line 3: 'max_size_kb' is not a", "'max-size-kb'"),
        ("sede = 1", "line 3: 'sede'", "did you mean 'seed'"),
        ('out = "x"', "line 3: out has no effect in a sweep", "--out"),
        ("fresh = true", "line 3: fresh has no effect in a sweep", "another folder"),
        ("seed = 0.5", "seed = 0.5, the rule is a whole number", ""),
        ('seed = "1"', "seed = '1', the rule is a whole number", ""),
        ('skip-corrupt = "yes"', "the rule is true or false", ""),
        ('max-size-kb = "20"', "max-size-kb = '20', the rule is a number", ""),
        ("sampler = true", "sampler = True, the rule is", "correct it"),
        ("seed = [0, 0]", "repeats a value", ""),
        ("seed = { low = 3, high = 1 }", "is not a range", ""),
    ],
)
def test_an_error_names_the_line_the_value_and_the_nearest_option(tmp_path, line, message, fix):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f'[run]\ndata = "digits"\n{line}\n')
    assert message in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run]\nseed = 1\n", "no data are stated"),
        ('[run]\ndata = "a"\nseed = [1, 2]\n[[row]]\nseed = 1\n[[row]]\nseed = 1\n', "are equal"),
        ('[runs]\ndata = "a"\n', "'runs' is not a section"),
        ('[run]\ndata = "a"\nseed = { low = 0, high = 9999 }\nmels = [1, 2]\n', "10000 cells"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_rows_behind_the_most_cells_are_not_read(tmp_path, monkeypatch):
    """A row of 30 bytes may stand for thousands of cells, a file for thousands of such rows."""
    counts = {"rows": 0, "values": 0}
    choices, wanted = sweep_file._choices, sweep_file._wanted

    def counted(name, function):
        def count(*given):
            counts[name] += 1
            return function(*given)

        return count

    monkeypatch.setattr(sweep_file, "_choices", counted("rows", choices))
    monkeypatch.setattr(sweep_file, "_wanted", counted("values", wanted))
    row = "[[row]]\nseed = { low = 0, high = 3999 }\n"
    with pytest.raises(ConfigError, match="more than 10000 cells"):
        read(tmp_path, '[run]\ndata = "a"\n' + 100 * row)
    assert counts["rows"] <= 4  # The table of all, and three rows.
    assert counts["values"] <= 4  # All values of a range are of one type.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = [0, -1]", r"cell a_seed=-1: --seed -1, the rule is"),
        ("max-size-kb = 0", "--max-size-kb 0"),
        ('max-macs = "many"', "'many' is not a number"),
        ('budget = "soon"', "--budget 'soon'"),
        ("folds = 99", "--folds 99"),
    ],
)
def test_an_illegal_value_is_refused_before_the_first_run(tmp_path, line, message):
    path = tmp_path / "s.toml"
    path.write_text(f'[run]\ndata = "a"\n{line}\n')
    with pytest.raises(ConfigError, match=message):
        api.sweep(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_may_be_written_as_on_the_command_line(tmp_path):
    made = read(
        tmp_path,
        '[run]\ndata = "a"\nfolds = 5\nchannels = 3\nmax-macs = 2000000\nbudget = 90\n'
        'callback = "wandb,mlflow"\njobs-per-gpu = 2\nmax-memory = "2G"\nseed = 4\n',
    )
    found = []
    made.check(lambda data, settings: found.append(settings) or run_config(data, settings))
    (settings,) = found
    assert settings["limits"].max_macs == 2_000_000
    assert settings["callbacks"] == ("wandb", "mlflow")
    assert (settings["folds"], settings["channels"], settings["budget"]) == ("5", "3", "90")
    assert settings["seed"] == 4


def test_the_words_of_a_cell_are_understood_by_run(tmp_path, monkeypatch, capfd):
    lepton = Lepton(monkeypatch, capfd)
    run = lepton.fake("pipeline.run.run", Outcome(tmp_path / "artifact", verdict()))
    made = read(
        tmp_path,
        '[run]\ndata = "-odd"\npixel-scale = "-1000:1000"\nskip-corrupt = true\nrehash = false\n'
        'max-macs = "2M"\nseed = 4\n',
    )
    lepton(*made.cells[0].words(tmp_path / "here"))
    assert run.config.data == "-odd"
    assert run.config.pixel_scale == "-1000:1000"
    assert (run.config.skip_corrupt, run.config.rehash) == (True, False)
    assert (run.config.limits.max_macs, run.config.seed) == (2_000_000, 4)
    assert run.config.out == tmp_path / "here"


def test_each_cell_has_a_store_of_its_own(tmp_path):
    made = read(tmp_path, '[run]\ndata = "a"\nstore = "s3://bucket/table"\nseed = [1, 2]\n')
    words = [cell.words(tmp_path / cell.name) for cell in made.cells]
    stores = [word for each in words for word in each if word.startswith("--store")]
    assert stores == [f"--store=s3://bucket/table/a_seed={n}" for n in (1, 2)]


def test_the_time_of_a_sweep_is_divided_among_the_cells_that_state_none(tmp_path):
    made = read(
        tmp_path, '[run]\ndata = "a"\n[[row]]\nseed = [1, 2]\n[[row]]\nseed = 3\nbudget = "10m"\n'
    )
    shares = [cell.options["budget"] for cell in made.with_budget("1h").cells]
    assert shares == ["1500s", "1500s", "10m"]
    with pytest.raises(ConfigError, match="leaves no time"):
        made.with_budget("10m")
    stated = read(tmp_path, '[run]\ndata = "a"\nbudget = "5m"\nseed = [1, 2]\n')
    with pytest.raises(ConfigError, match="has no effect: every cell states its budget, 10 min"):
        stated.with_budget("1h")


def test_an_option_of_the_command_and_of_the_file_exclude_each_other(tmp_path):
    made = read(tmp_path, '[run]\ndata = "a"\n')
    assert made.with_options({"jobs": 2}).cells[0].options["jobs"] == 2
    stated = read(tmp_path, '[run]\ndata = "a"\njobs = 1\n')
    with pytest.raises(ConfigError, match="--jobs and `jobs` of"):
        stated.with_options({"jobs": 2})


VALUES = st.one_of(
    st.integers(-5, 5), st.booleans(), st.text("aB/.. -é\n=", max_size=6), st.floats(0, 1)
)


@given(st.lists(st.fixed_dictionaries({"data": st.text("a/.b\n", max_size=5), "x": VALUES})))
def test_names_of_cells_differ_and_are_names_of_folders(cells):
    different = list({json.dumps(cell, sort_keys=True): cell for cell in cells}.values())
    names = sweep_file.cell_names(different, ("data", "x"))
    assert len(set(names)) == len(different)
    assert all(name[0] not in ".-" and not set(name) & set("/\n \0") for name in names)
