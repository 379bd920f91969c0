from __future__ import annotations

from lepton_automl.core.machine import this_machine


def test_model_and_flags_are_read_from_the_list_of_processors(tmp_path):
    listed = tmp_path / "cpuinfo"
    listed.write_text(
        "processor\t: 0\nmodel name\t: Big Iron 9000\nflags\t\t: fpu avx2 sse avx512_vnni\n\n"
        "processor\t: 1\nmodel name\t: other\nflags\t\t: amx_int8\n"
    )
    machine = this_machine(listed)
    assert machine.cpu == "Big Iron 9000"
    assert machine.flags == ("avx2", "avx512_vnni")
    assert "avx512_vnni" in str(machine)


def test_without_the_list_something_is_still_said(tmp_path):
    machine = this_machine(tmp_path / "none")
    assert machine.cpu
    assert machine.flags == ()
    assert machine.onnxruntime.count(".") == 2
