"""Names that mean a part: `train`, `01_train_images`, `val2017`, `Final_Test`, `holdout`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART_WORDS = {
    "train": "train tr trn training trainval learn learning",
    "validation": "validation val valid validate validating dev devel development eval evaluation "
    "tune tuning",
    "test": "test tests testing tst ts te holdout heldout unseen",
}
"""Part -> words that mean it, in names of folders and in columns of tables."""

_PART_OF = {word: part for part, words in _PART_WORDS.items() for word in words.split()}
_EITHER = frozenset({"eval", "evaluation"})
"""Words that mean the test part where another name is the validation part and none the test."""

_FILLERS = (
    "set sets data dataset split splits part parts folder dir images image imgs img pictures pics "
    "photos files jpg jpeg png final full all clean cleaned original orig cropped resized aug "
    "augmented new labeled labelled x out only"
)
"""Words that may stand beside the one for the part: `01_train_images`, `Final_Test`, `val2017`."""


def parts_named(names: Iterable[str]) -> dict[str, str]:
    """Name -> part, of those names that mean a part."""
    found = {name: part for name in names if (part := _part_named(name)) is not None}
    late = [name for name in found if _EITHER & set(_words(name))]
    others = {part for name, part in found.items() if name not in late}
    if "validation" in others and "test" not in others:
        found |= dict.fromkeys(late, "test")
    return found


def _part_named(name: str) -> str | None:
    """The part that a name means; None: none, or more than one."""
    words = _words(name)
    parts = {_PART_OF[word] for word in words if word in _PART_OF}
    rest = [word for word in words if word not in _PART_OF and word not in _FILLERS.split()]
    return parts.pop() if len(parts) == 1 and not rest else None


def _words(name: str) -> list[str]:
    """Words of a name in lower case, without numbers: `Final_TestSet2` -> final, test, set."""
    text = re.sub(r"hold[-_ ]?out|held[-_ ]?out", "holdout", name, flags=re.IGNORECASE)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    words = []
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        # Written as one word: trainset, testdata.
        ending = next((e for e in ("set", "data", "images", "imgs") if word.endswith(e)), "")
        stem = word.removesuffix(ending)
        words += [stem, ending] if ending and stem in _PART_OF else [word]
    return words
