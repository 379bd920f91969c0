from __future__ import annotations

from pathlib import Path

import pytest

from lepton_automl.core import network_disks
from lepton_automl.core.network_disks import network_disk
from lepton_automl.errors import MachineError
from lepton_automl.runs.lock import RunLock, check_not_held

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {0}/home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / {0}/home/local\\040disk rw - ext4 /dev/sdb1 rw
32 22 0:41 / {0}/share rw - cifs //server/share rw
33 22 0:42 / {0}/was-share rw - nfs server:/x rw
34 33 8:3 / {0}/was-share rw - xfs /dev/sdc1 rw
a line that is none
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    for name in ("home/local disk", "share", "was-share"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS.format(tmp_path))
    monkeypatch.setattr(network_disks, "_MOUNTS", path)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (".", ""),
        ("home", "nfs4"),
        ("home/user/run", "nfs4"),
        ("home/local disk/run", ""),
        ("homes", ""),
        ("share/x", "cifs"),
        ("was-share/x", ""),
    ],
)
def test_the_innermost_mount_of_a_path_tells_its_file_system(mounts, place, kind):
    assert network_disk(mounts / place) == kind


def test_a_link_to_a_network_disk_is_followed(mounts):
    (mounts / "link").symlink_to(mounts / "home")
    assert network_disk(mounts / "link" / "run") == "nfs4"


def test_without_a_list_of_mounts_nothing_is_known(monkeypatch):
    monkeypatch.setattr(network_disks, "_MOUNTS", Path("/proc/no/mountinfo"))
    assert network_disk(Path("/")) == ""


@pytest.mark.parametrize("use", [RunLock, check_not_held])
def test_a_run_folder_on_a_network_disk_is_refused(mounts, use):
    with pytest.raises(MachineError, match=r"network disk \(nfs4\)") as caught:
        use(mounts / "home" / "run")
    assert "--store" in caught.value.fix
    assert not (mounts / "home" / "run").exists()
