"""Pictures in a sub-folder per class, optionally below train/ val/ test/: which folder is what."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.core.decisions import Decision
from lepton_automl.core.units import counted, first_few
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.pictures.picture_files import OTHER_SUFFIXES, SUFFIXES
from lepton_automl.data.samples import PARTS, Samples
from lepton_automl.errors import ConfigError, DataError

_CONTAINERS = (
    "images image imgs img pictures pics photos jpg jpeg jpegs png jpegimages data dataset files "
    "frames crops"
)
"""Folders that may lie between DATA and its parts, or between a part and its classes."""

_LEFTOVERS = frozenset(
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("recycler", "system volume information", "found.000", "wpsettings.dat"),  # Windows
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "@sharebin"),  # NAS
        *("@transcode", "#recycle", "#snapshot", "~snapshot", "lost+found"),
        *("picasa.ini", "__pycache__"),
    }
)
"""What systems, NAS boxes and archives leave in folders, in lower case; so are dot-files."""

_LAYOUT = "put the pictures of each class into one sub-folder named after the class"
_PART_LAYOUT = (
    "the layout is DATA/CLASS/*.jpg, or DATA/train/CLASS/*.jpg with validation/ and test/ beside it"
)


@dataclass(frozen=True)
class Folder:
    """A folder and what is in it, without what systems leave behind."""

    path: Path
    folders: tuple[Folder, ...]
    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    """Files that are not pictures by their suffix."""
    loops: tuple[Path, ...] = ()
    """Links to a folder that they lie in, which are not followed."""
    broken: tuple[Path, ...] = ()
    """Links to what is not there, without the suffix of a picture."""
    has_links: bool = False

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def filled(self) -> tuple[Folder, ...]:
        """Its folders with a picture at any depth."""
        return tuple(folder for folder in self.folders if folder.holds_pictures)

    @property
    def holds_pictures(self) -> bool:
        """Whether there is a picture at any depth."""
        return bool(self.pictures) or any(folder.holds_pictures for folder in self.folders)

    def below(self, kind: str) -> list[Path]:
        """All `pictures`, `others`, `loops` or `broken` at any depth, own ones first."""
        found = list(getattr(self, kind))
        for folder in self.folders:
            found += folder.below(kind)
        return found


def read_folders(top: Folder, stated: Mapping[str, str] | None) -> Samples:
    """The pictures in the class folders of `top`, which are paths there.

    Parameters
    ----------
    top : Folder
        DATA.
    stated : mapping of str to str, optional
        Part -> name of its folder in DATA; empty: every folder is a class. By default folders are
        parts by their names (`data.layouts.part_names`).

    Raises
    ------
    DataError
        If it holds no labelled pictures, or pictures of kinds that are not read, or it is not clear
        which folders are classes.
    ConfigError
        If a stated folder is not there.
    """
    data = top.path
    root, every, ignored = _layout(top, stated)
    unlabelled = _unlabelled(every)
    parts = [(part, folder) for part, folder in every if folder not in unlabelled]
    found = [
        (part, class_folder.name, file)
        for part, folder in parts
        for class_folder in folder.folders
        for file in _once(class_folder)
    ]
    others = [
        file for _, part in parts for folder in part.folders for file in folder.below("others")
    ]
    loose = [file for _, part in parts for file in part.pictures]
    _check_kinds([file for _, _, file in found], others, data)
    if not found:
        raise _empty(root.path, top.below("others"), len(loose), parts)
    _check_parts(parts, data)
    names = sorted({folder.name for _, part in parts for folder in part.folders})
    return Samples(
        pictures=tuple(file for _, _, file in found),
        labels=np.array([names.index(name) for _, name, _ in found], np.int64),
        class_names=tuple(_text(name) for name in names),
        ids=tuple(str(file.relative_to(data)) for _, _, file in found),
        parts=np.array([part for part, _, _ in found], "<U10"),
        notes=(
            *_layout_notes(data, root, every, {part for part, _, _ in found}),
            *_ignored_notes([*others, *loose], ignored, top, len(found), parts),
        ),
        decisions=_decisions(data, parts) if stated is None else (),
    )


def _layout(
    top: Folder, stated: Mapping[str, str] | None
) -> tuple[Folder, list[tuple[str, Folder]], tuple[Folder, ...]]:
    """Folder whose sub-folders are parts or classes; parts and their folders; what is ignored.

    The part is an empty string where the sub-folders are classes.
    """
    root = top
    while (only := _only_folder(root)) is not None:
        root = only
    if stated is not None:
        return (root, *_stated_parts(root, stated))
    part_of = _parts_by_name(root.filled)
    named = set(part_of.values())
    odd = [folder for folder in root.filled if folder.name not in part_of]
    is_nested = any(_only_container(folder).filled for folder in root.filled)
    if "train" in named and not odd and len(root.filled) > 1 and not is_nested:
        raise _no_class_folders(root)
    parts = [(part_of[f.name], _only_container(f)) for f in root.filled if f.name in part_of]
    if "train" not in named or not any(folder.filled for _, folder in parts):
        _check_classes(root)
        return root, [("", root)], ()
    if odd and len(named) > 1:
        raise DataError(
            f"{root.path} has parts ({', '.join(part_of)}) and also folders that are neither: "
            f"{', '.join(folder.name for folder in odd)}",
            fix="keep only train/, validation/ and test/ beside each other, or only class "
            f"folders, or name the parts: --parts train={_first(part_of, 'train')},test=FOLDER",
        )
    if odd:
        _check_classes(root)
        return root, [("", root)], ()
    # An empty part that has a folder was meant to be there.
    empty = _parts_by_name(tuple(f for f in root.folders if not f.holds_pictures))
    parts += [(empty[f.name], f) for f in root.folders if f.name in empty]
    named_too = {*part_of, *empty}
    return root, parts, tuple(f for f in root.folders if f.name not in named_too)


def _unlabelled(parts: list[tuple[str, Folder]]) -> list[Folder]:
    """Validation and test folders with one folder that is no class of train, such as `unknown`."""
    classes = {inner.name for part, folder in parts if part == "train" for inner in folder.filled}
    return [
        folder
        for part, folder in parts
        if part in ("validation", "test")
        and len(classes) > 1
        and not folder.pictures
        and len(folder.filled) == 1
        and folder.filled[0].name not in classes
    ]


def is_leftover(name: str) -> bool:
    """Whether systems, NAS boxes or archives leave files of that name in folders."""
    return name.startswith((".", "~$")) or name.lower() in _LEFTOVERS


def _once(class_folder: Folder) -> list[Path]:
    """Pictures of a class in order; of links to one real file the first."""
    pictures = class_folder.below("pictures")
    if not class_folder.has_links:
        return pictures
    real = [os.path.realpath(file) for file in pictures]
    first = {path: place for place, path in reversed(list(enumerate(real)))}
    return [file for place, file in enumerate(pictures) if first[real[place]] == place]


def _only_folder(root: Folder) -> Folder | None:
    """The folder to go on in where it is the only one, which could not be several classes."""
    if len(root.filled) != 1 or root.pictures:
        return None
    (only,) = root.filled
    is_wrapper = len(root.folders) == 1 or only.name.lower() in _CONTAINERS.split()
    return only if is_wrapper and only.filled else None


def _only_container(part: Folder) -> Folder:
    """The folder with the classes of a part: itself, or below it one such as `images`."""
    while len(part.filled) == 1 and not part.pictures:
        (only,) = part.filled
        if only.name.lower() not in _CONTAINERS.split():
            break
        part = only
    return part


def _parts_by_name(folders: tuple[Folder, ...]) -> dict[str, str]:
    """Name of a folder -> part, of those whose names mean a part."""
    return parts_named(folder.name for folder in folders)


def _stated_parts(
    root: Folder, stated: Mapping[str, str]
) -> tuple[list[tuple[str, Folder]], tuple[Folder, ...]]:
    if not stated:
        return [("", root)], ()
    folders = {folder.name: folder for folder in root.folders}
    for part, name in stated.items():
        if name not in folders:
            raise ConfigError(
                f"--parts {part}={name}: {root.path} has no folder {name!r}, only "
                f"{', '.join(list(folders)[:10])}",
                fix="give names of folders in DATA",
            )
    parts = [(part, _only_container(folders[name])) for part, name in stated.items()]
    return parts, tuple(f for n, f in folders.items() if n not in stated.values())


def _check_classes(root: Folder) -> None:
    """Refuse class folders that all hold the same sub-folders: these may be the classes.

    Raises
    ------
    DataError
        If two folders or more, at least half of all, hold the same sub-folders and no pictures of
        their own.
    """
    nested = [folder for folder in root.filled if folder.filled and not folder.pictures]
    if len(nested) < 2 or 2 * len(nested) < len(root.filled):
        return
    common = set.intersection(*({inner.name for inner in folder.filled} for folder in nested))
    if len(common) < 2:
        return
    tops, inner = ([f"{name}/" for name in names] for names in (
        [folder.name for folder in nested], sorted(common)
    ))  # fmt: skip
    raise DataError(
        f"{root.path}: {first_few(tops, 4)} all hold the same sub-folders ({first_few(inner, 4)}), "
        "so it is not clear which of the two levels are the classes",
        fix=f"{_PART_LAYOUT}; where {first_few(tops, 2)} are parts, name them: "
        f"--parts train={nested[0].name},test={nested[1].name}; where they are classes: "
        "--parts none",
    )


def _no_class_folders(root: Folder) -> DataError:
    names = first_few([f"{folder.name}/" for folder in root.filled], 4)
    return DataError(
        f"{root.path}: {names} are parts by their names, but hold no class folders",
        fix=f"{_PART_LAYOUT}; where these are the classes: --parts none",
    )


def _check_kinds(read: list[Path], others: list[Path], data: Path) -> None:
    """Refuse pictures of kinds that are not read, unless each is there in another kind too.

    Raises
    ------
    DataError
        If some would be left out: the classes may differ in what they are stored as.
    """
    known = {file.with_suffix("") for file in read}
    left = [
        file
        for file in others
        if file.suffix.lower() in OTHER_SUFFIXES and file.with_suffix("") not in known
    ]
    if left:
        kinds = Counter(file.suffix.lower() for file in left)
        shown = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(4))
        raise DataError(
            f"{data} holds pictures of kinds that are not read ({shown}), such as "
            f"{left[0].relative_to(data)}",
            fix="convert them into PNG or JPEG files, such as `magick mogrify -format png "
            f"*{left[0].suffix}` in their folder, or remove them",
        )


def _check_parts(parts: list[tuple[str, Folder]], data: Path) -> None:
    """Refuse a part that has class folders or a place, and no pictures.

    A part whose pictures are in no class folder has no labels; it is left out with a note.
    """
    for name in PARTS:
        folders = [folder for part, folder in parts if part == name]
        if folders and not any(folder.holds_pictures for folder in folders):
            where = ", ".join(str(folder.path) for folder in folders)
            raise DataError(
                f"the {name} part of {data} is empty: no pictures in {where}",
                fix=f"put pictures into it, or remove it: then a {name} part is drawn from the rest"
                if name != "train"
                else "put pictures into it",
            )


def _decisions(data: Path, parts: list[tuple[str, Folder]]) -> tuple[Decision, ...]:
    """Which folders were taken for parts; nothing where all are classes."""
    if all(not part for part, _ in parts):
        return ()
    chosen = ", ".join(f"{part} is {folder.path.relative_to(data)}/" for part, folder in parts)
    evidence = "names of folders that hold class folders"
    return (Decision("parts", chosen, evidence, "inferred", "--parts"),)


def _layout_notes(
    data: Path, root: Folder, parts: list[tuple[str, Folder]], found: set[str]
) -> tuple[str, ...]:
    notes = []
    if root.path != data:
        notes.append(f"{root.path} is read, the only folder with pictures in {data}")
    for part, folder in parts:
        if part not in found and (pictures := folder.below("pictures")):
            why = "has no class folders"
            if not folder.pictures:
                why = f"has one folder, {folder.filled[0].name!r}, which is not a class of train"
            notes.append(
                f"{folder.path} {why}, so its {len(pictures)} pictures have no labels: a {part} "
                "part is drawn from the rest, and `lepton predict` classifies them"
            )
    return tuple(notes)


def _ignored_notes(
    others: list[Path],
    folders: tuple[Folder, ...],
    top: Folder,
    kept: int,
    parts: list[tuple[str, Folder]],
) -> tuple[str, ...]:
    notes = []
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(
            f"ignored {counted(len(others), 'file')} other than labelled pictures: "
            f"{', '.join(map(str, others[:3]))}{more}"
        )
    if folders:
        notes.append(f"ignored folders beside the parts: {first_few([f.name for f in folders], 4)}")
    if loops := top.below("loops"):
        notes.append(
            f"ignored {counted(len(loops), 'link')} from inside a folder to it: {loops[0]}"
        )
    if broken := top.below("broken"):
        notes.append(
            f"ignored {counted(len(broken), 'link')} to what is not there, such as "
            f"{broken[0]}: is a disk not mounted?"
        )
    found = sum(len(c.below("pictures")) for _, part in parts for c in part.folders)
    if found > kept:
        notes.append(f"ignored {found - kept} pictures that are links to others of the same class")
    return tuple(notes)


def _first(part_of: Mapping[str, str], part: str) -> str:
    return next(name for name, known in part_of.items() if known == part)


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        what, fix = f"the name of the class folder {name!r} is not valid UTF-8", "rename the folder"
        with contextlib.suppress(UnicodeDecodeError):
            text = name.encode("utf-8", "surrogateescape").decode()
            what = f"the name of the class folder {text!r} cannot be read in this locale"
            fix = "set a UTF-8 locale, for instance LC_ALL=C.UTF-8, and leave PYTHONUTF8 out"
        raise DataError(what, fix=fix) from error
    return name


def _empty(
    root: Path, others: list[Path], loose: int, parts: list[tuple[str, Folder]]
) -> DataError:
    if loose:
        where = root if len(parts) == 1 else parts[0][1].path
        return DataError(
            f"{loose} pictures are in {where} itself, not in a class folder", fix=_LAYOUT
        )
    what = "no pictures"
    if others:
        kinds = Counter(file.suffix.lower() or "without suffix" for file in others)
        shown = first_few([f"{number} {kind}" for kind, number in kinds.most_common()], 4)
        what = f"{counted(len(others), 'file')} ({shown}), none of them a picture"
    for _, folder in parts:
        for inner in folder.folders:
            kind = folder_kind(str(inner.path))
            if kind not in ("", "image_folder"):
                return DataError(
                    f"{root} holds {what}; {inner.path} is data of another kind ({kind})",
                    fix=f"give {inner.path}",
                )
    known = " ".join(sorted(SUFFIXES))
    fix = f"{_LAYOUT}; pictures end in {known}"
    if any(file.suffix.lower() == ".arff" for file in others):
        fix = (
            f"of the UCR and UEA archive give the .ts files, ARFF is not read; for pictures, {fix}"
        )
    if any(file.suffix.lower() == ".arrow" for file in others):
        fix = (
            "where Hugging Face's `save_to_disk` wrote them: a file my_data.py with "
            "`data = datasets.load_from_disk(FOLDER)`, and give my_data:data; "
            f"for pictures, {fix}"
        )
    return DataError(f"{root} holds {what}", fix=fix)
