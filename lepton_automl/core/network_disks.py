"""Find out whether a folder lies on a disk of another machine."""

from __future__ import annotations

import re
from pathlib import Path

from lepton_automl.core.files import real_path

_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "davfs"),
    *("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.goofys"),
}
"""Names of file systems that other machines may change, as Linux lists them."""
_MOUNTS = Path("/proc/self/mountinfo")


def network_disk(path: Path) -> str:
    """Name of the network file system that holds a path, such as `nfs4`; empty where none does.

    Parameters
    ----------
    path : Path
        It need not exist: then the nearest folder above it counts.
    """
    place = real_path(path)
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:  # No Linux, or a container without /proc.
        return ""
    found, kind = Path(), ""
    for line in lines:
        # ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS] - TYPE SOURCE ...
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5 or not types[0]:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        # Of two at one point the later one lies above the other.
        if place.is_relative_to(point) and len(point.parts) >= len(found.parts):
            found, kind = point, types[0]
    return kind if kind in _NETWORK else ""
