"""Cells: what one classifier says to one set of images behind one purifier, an image at a time; one JSON file each.

Tables and plots are made from these files and from nothing else. numpy only: no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from apibench.errors import ApibenchError
from apibench.imageset import difference, write_atomically

FORMAT = 1
CLEAN = "clean"  # the attack of images that nobody attacked
RUN = "run.json"  # beside the folder of cells: the recipe's name, reference family, notes and files of cells
NONE = "none"  # the purifier of images that go to the classifier as they are: 0 passes


@dataclass(frozen=True)
class Verdict:
    """What a classifier said to one image. ``source`` is the identity of the clean image: by it cells are paired."""

    id: str
    source: str
    label: int
    predicted: int

    @property
    def correct(self) -> bool:
        return self.predicted == self.label


@dataclass(frozen=True)
class Key:
    """Which cell: ``attack`` is ``clean`` or a variant such as ``pgd-linf/eps8``; ``aware``: made through the purifier."""

    classifier: str
    attack: str
    purifier: str
    passes: int
    aware: bool = False

    @property
    def file(self) -> str:
        knows = "aware" if self.aware else "blind"
        return f"{slug(self.classifier)}--{slug(self.attack)}--{slug(self.purifier)}-{self.passes}--{knows}.json"


@dataclass(frozen=True)
class Cell:
    """One result file. ``settings`` is everything that decides it; ``seconds`` (wall time of its unit) is not compared.

    ``failed`` are ids of images that could not be read: the cell is measured again, for those, by the next run.
    """

    key: Key
    family: str
    epsilon: float | None
    images: tuple[Verdict, ...]
    settings: Mapping[str, Any]
    failed: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    seconds: float = 0.0

    def to_json(self) -> str:
        images = [{**asdict(image), "correct": image.correct} for image in self.images]
        content = {**asdict(self.key), **asdict(self), "images": images, "format": FORMAT}
        del content["key"]
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Raises ValueError where the text is not a cell."""
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            key = Key(**{name: content.pop(name) for name in ("classifier", "attack", "purifier", "passes", "aware")})
            verdicts = [dict(image) for image in content.pop("images")]
            images = tuple(Verdict(v["id"], v["source"], int(v["label"]), int(v["predicted"])) for v in verdicts)
            return cls(key=key, images=images, failed=tuple(content.pop("failed")), **content)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a cell: {error}") from error


def slug(name: str) -> str:
    """A file name's part for any name: readable, and safe on every system.

    Attacks and purifiers are told apart by what is left of their names; what is cut, or has a folder or options of its own
    (a classifier's file), gets a digest.
    """
    # A classifier's file and its options are not needed to recognise it.
    short = re.sub(r"[^A-Za-z0-9._,]+", "-", name.partition("?")[0]).strip("-.")[:48]
    if len(name) <= 48 and re.fullmatch(r"[A-Za-z0-9._,:/+-]+", name):
        return short
    return f"{short}~{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def display(classifier: str) -> str:
    """A classifier as tables call it: the architecture, or the stem of its weights' file."""
    kind, _, rest = classifier.partition(":")
    if kind != "file":
        return rest or classifier
    return Path(rest.partition("=")[2].partition("?")[0].partition("#")[0]).stem or rest


def write(folder: Path, cell: Cell) -> None:
    write_atomically(folder / cell.key.file, cell.to_json().encode())


def present(folder: Path, key: Key, settings: Mapping[str, Any], family: str) -> Cell | None:
    """The finished cell, or None. One that is of another family in name only is written anew, under this one.

    Raises ApibenchError where the file holds a result of other settings, or of another key whose file has the same name.
    """
    path = folder / key.file
    if not path.is_file():
        return None
    cell = _read(path)
    if cell.key != key:
        one, other = (f"{k.classifier}, {k.attack}, {k.purifier}/{k.passes}" for k in (cell.key, key))
        raise ApibenchError(f"{path}: holds the result of {one}; that of {other} would have the same file name")
    there, now = json.dumps(cell.settings, sort_keys=True), json.dumps(settings, sort_keys=True)
    if there != now:
        raise ApibenchError(
            f"{path}: was measured by another recipe ({difference(there, now)}).\nName another --out, or remove that file."
        )
    if cell.family != family:
        cell = replace(cell, family=family)
        write(folder, cell)
    return cell


def files(folder: Path) -> list[Path]:
    """The files of cells, by name."""
    return sorted(folder.glob("*.json"))


def read_all(folder: Path, wanted: Collection[str] | None = None) -> list[Cell]:
    """The cells of a folder (of those named ``wanted`` the ones that are there), by file name.

    Raises ApibenchError where there is none, or one cannot be read.
    """
    paths = [path for path in files(folder) if wanted is None or path.name in wanted]
    if not paths:
        raise ApibenchError(f"{folder}: there are no results yet")
    return [_read(path) for path in paths]


def _read(path: Path) -> Cell:
    try:
        return Cell.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ApibenchError(f"{path}: not a result of 'apibench evaluate': {error!s:.120}") from error
