from __future__ import annotations

import json

from lepton_automl.cost import boards


def test_boards_are_listed(lepton):
    done = lepton("boards")
    assert done.exit_code == 0
    assert all(name in done.out for name in boards.names())
    rows = json.loads(lepton("boards", "--json").out)["boards"]
    assert [row["name"] for row in rows] == [board.name for board in boards.every()]
    (row,) = (row for row in rows if row["name"] == "nucleo-l432kc")
    assert (row["core"], row["clock_mhz"]) == ("cortex-m4", 80)
    assert (row["flash_kib"], row["ram_kib"]) == (256, 64)
    assert row["source"].startswith("https://www.st.com/")


def test_a_board_without_a_document_of_its_figures_is_marked(lepton, monkeypatch):
    assert "(?)" not in lepton("boards").out
    unknown = boards.Board("mine", "cortex-m0", 8, 64, 8)
    monkeypatch.setattr(boards, "every", lambda: [unknown, boards.load("xiao-samd21")])
    out = lepton("boards").out
    assert "mine (?)" in out
    assert "xiao-samd21 (?)" not in out
    assert "(?) no public document confirms" in out


def test_the_net_of_a_run_fits_some_boards(lepton, finished_run):
    rows = json.loads(lepton("boards", str(finished_run[0].out), "--json").out)["boards"]
    assert {row["fit"] for row in rows} <= {"fits", "tight", "does not fit"}
    assert {row["basis"] for row in rows} == {"predicted"}
    board = {row["name"]: row for row in rows}["nucleo-l432kc"]
    expected = boards.load("nucleo-l432kc").fit(board["net_flash_bytes"], board["net_ram_bytes"])
    assert board["fit"] == expected
    assert "predicted, and" in lepton("boards", str(finished_run[0].out)).out


def test_a_folder_without_an_artifact_is_told(lepton, tmp_path):
    assert lepton("boards", str(tmp_path)).exit_code == 3
