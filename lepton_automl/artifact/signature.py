"""Signatures of artifacts by OpenSSH: who made the manifest, and so every file that it lists.

`ssh-keygen -Y` signs and checks without network. The signature is over the bytes of the manifest,
whose digests cover all other files. A digest shows accidents; only a signature shows that nobody
who may write the files has changed them, and only to whom knows the signer's public key.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lepton_automl.artifact.manifest import MANIFEST, SIGNATURE
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.scratch import scratch_folder
from lepton_automl.errors import ArtifactError, ConfigError, DataError, MachineError

NAMESPACE = "lepton"
"""What signatures are for: one made for another purpose does not count."""
_PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk)-\S+ \S+")
_PRINCIPAL = "signer"
"""Name of the owner of a public key that is given without one."""
_SECONDS = 300.0
"""A passphrase or a touch of a security key may be asked for."""


def sign(folder: Path, key: Path) -> Path:
    """Sign the manifest of a finished artifact; returns the signature, `manifest.json.sig`.

    Parameters
    ----------
    folder : Path
        The artifact.
    key : Path
        A private key of OpenSSH, or a public one whose private key the agent of ssh has.

    Raises
    ------
    ConfigError
        If the key cannot be used.
    MachineError
        If there is no `ssh-keygen`, or the signature cannot be written.
    """
    check_key(key)
    content = untrusted_files.read_bytes(
        folder / MANIFEST, untrusted_files.TEXT, fix="export the run again"
    )
    done = _run(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], content)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise ConfigError(
            f"--sign {key}: ssh-keygen cannot sign with it: {_said(done)}",
            fix="give a private key of OpenSSH, or a public one whose private key ssh-agent has",
        )
    return files.write(folder / SIGNATURE, done.stdout)


def check_key(key: Path) -> None:
    """Check, before minutes are spent, that a key and what signs with it are there.

    Raises
    ------
    ConfigError
        If there is no such file.
    MachineError
        If there is no `ssh-keygen`.
    """
    if not key.is_file():
        raise ConfigError(
            f"--sign {key}: there is no such file",
            fix="give a key of OpenSSH; ssh-keygen -t ed25519 -f lepton_key makes one",
        )
    _program()


def check_signature(folder: Path, trust: Path) -> str:
    """Who signed the manifest of an artifact, by a key that is trusted.

    Parameters
    ----------
    folder : Path
        The artifact.
    trust : Path
        A public key, or a file of allowed signers of OpenSSH (`man ssh-keygen`).

    Returns
    -------
    str
        The name in the file of allowed signers, and the key: `anna@example.org with ED25519 key
        SHA256:...`.

    Raises
    ------
    ArtifactError
        If there is no signature, or none by such a key over the manifest that is there.
    DataError
        If `trust` is no such file.
    MachineError
        If there is no `ssh-keygen`.
    """
    fix = "give the public key of the signer (a .pub file), or a file of allowed signers"
    allowed = _allowed_signers(trust, fix)
    path = folder / SIGNATURE
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is not signed: there is no {SIGNATURE}",
            fix="ask its maker for a signed one; lepton export RUN --sign KEY signs",
        )
    signature = untrusted_files.read_bytes(path, untrusted_files.TEXT, fix=fix)
    content = untrusted_files.read_bytes(folder / MANIFEST, untrusted_files.TEXT, fix=fix)
    with scratch_folder() as place:
        known, made = Path(place, "allowed"), Path(place, "signature")
        known.write_text(allowed, encoding="utf-8")
        made.write_bytes(signature)
        places = ["-s", str(made), "-f", str(known)]
        found = _run(["-Y", "find-principals", *places], content)
        names = found.stdout.decode(errors="replace").splitlines()
        for name in names if not found.returncode else []:
            words = ["-Y", "verify", "-n", NAMESPACE, "-I", name.split(",")[0], *places]
            done = _run(words, content)
            if not done.returncode:
                return _signer(done.stdout.decode(errors="replace"))
    raise ArtifactError(
        f"{path} is not a signature of {MANIFEST} by a key of {trust}",
        fix="the artifact was changed, or another key signed it: get it again from its maker",
    )


def _allowed_signers(trust: Path, fix: str) -> str:
    """Content of a file of allowed signers, made where public keys are given."""
    text = untrusted_files.read_text(trust, fix=fix)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{trust} holds no key", fix=fix)
    if "PRIVATE KEY" in text:
        raise DataError(f"{trust} is a private key, which only its owner should have", fix=fix)
    return "".join(
        f'{_PRINCIPAL} namespaces="{NAMESPACE}" {line}\n'
        if _PUBLIC_KEY.match(line)
        else f"{line}\n"
        for line in lines
    )


def _signer(said: str) -> str:
    """`Good "lepton" signature for NAME with ED25519 key SHA256:...`, from the name on."""
    text = said.splitlines()[0] if said else ""
    found = text.partition(" signature for ")[2] or text
    return found.removeprefix(f"{_PRINCIPAL} with ")


def _program() -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise MachineError(
            "there is no ssh-keygen, which makes and checks signatures",
            fix="install OpenSSH 8.1 or newer (Debian: openssh-client)",
        )
    return program


def _run(words: Sequence[str], content: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [_program(), *words], input=content, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"ssh-keygen gave no answer in {_SECONDS:.0f} s", fix="run the same command"
        ) from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it says nothing"
