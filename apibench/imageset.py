"""Image sets: folders of PNG files with a JSON beside each and a ``manifest.jsonl`` built from them at the end.

Every stage reads and writes image sets and nothing else, so that each can be killed, resumed and run again alone. A PNG is
written first, its JSON after it, each to a temporary file that is synced and renamed: a JSON therefore vouches for its PNG, and
a PNG without one is made again. PNG because JPEG breaks the bound of an attack.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from apibench.errors import ApibenchError

Pixels = npt.NDArray[np.uint8]

MANIFEST = "manifest.jsonl"
RECIPE = "set.json"
FORMAT_VERSION = 1
CLASSES = 1000  # ImageNet-1k


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set.

    ``pixels_sha256`` is the identity of the decoded pixels, ``sha256`` of the PNG's bytes (what is sent), ``source`` the
    identity of the clean image it was made from (its own, if clean). ``variant`` is ``clean``, ``mi-di/eps16`` or
    ``mi-di/eps16+ncis/4``. ``extra`` holds what the stage measured (``linf``, ``l2``). No times: the same work gives the same
    record.
    """

    id: str
    file: str
    pixels_sha256: str
    sha256: str
    width: int
    height: int
    label: int | None
    label_source: str | None
    source: str
    variant: str
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ImageRecord:
        """Raises ValueError where the text is not a record."""
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        known = {f.name for f in fields(cls)}
        missing = {"id", "file", "pixels_sha256", "sha256", "width", "height", "source", "variant"} - set(data)
        if missing or set(data) - known:
            raise ValueError(f"unexpected keys: {sorted(missing | (set(data) - known))}")
        data.setdefault("label", None)
        data.setdefault("label_source", None)
        _check_fields(data)
        return cls(**data)


def _check_fields(data: Mapping[str, Any]) -> None:
    """Raise ValueError unless a record's fields are of their kind: a manifest may come from anybody."""
    # The id becomes a file's name, here and in every set made from this one.
    if not isinstance(data["id"], str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,120}", data["id"]):
        raise ValueError(f"id is not a plain name: {data['id']!r}")
    if data["file"] != f"{data['id']}.png":
        raise ValueError(f"file is not the id's: {data['file']!r}")
    for key in ("pixels_sha256", "sha256", "source"):
        if not isinstance(data[key], str) or not re.fullmatch(r"[0-9a-f]{64}", data[key]):
            raise ValueError(f"{key} is not a SHA-256: {data[key]!r}")
    label = data["label"]
    if label is not None and not (isinstance(label, int) and not isinstance(label, bool) and 0 <= label < CLASSES):
        raise ValueError(f"label is not a class index: {label!r}")
    if not isinstance(data["variant"], str) or not isinstance(data.get("settings", {}), dict):
        raise ValueError("variant is not text, or settings are not an object")
    if not isinstance(data.get("extra", {}), dict):
        raise ValueError("extra is not an object")


def pixels_sha256(pixels: Pixels) -> str:
    """The identity of an image: SHA-256 over its size and its (H, W, 3) uint8 pixels."""
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"RGB {width}x{height}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encode_png(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def decode_png(data: bytes) -> Pixels:
    with Image.open(BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def write_atomically(path: Path, data: bytes) -> None:
    """Write, sync and rename, so that ``path`` is either absent, or old, or whole. Raises ApibenchError on a full disk."""
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """The same for what is made while it is written, and need not be in memory whole."""
    # The temporary name must not end in .png: a reader globbing for images must never meet half of one.
    handle, temporary = -1, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ApibenchError(
            f"{path}: cannot be written: {error.strerror or error}. What was done so far is kept."
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class ImageSet:
    """A finished set, as read from its manifest."""

    def __init__(self, folder: Path, records: Iterable[ImageRecord]) -> None:
        self.folder = folder
        self.records = tuple(records)

    @staticmethod
    def is_set(folder: Path) -> bool:
        return (folder / RECIPE).is_file() or (folder / MANIFEST).is_file()

    @classmethod
    def load(cls, folder: Path) -> ImageSet:
        """Read a finished set. Raises ApibenchError where the folder is none, or its making has not ended."""
        manifest = folder / MANIFEST
        if not manifest.is_file():
            if (folder / RECIPE).is_file():
                raise ApibenchError(f"{folder}: this image set is not finished; run the command that makes it again")
            why = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
            raise ApibenchError(f"{folder}: not an image set ({why})")
        records = []
        try:
            lines = manifest.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ApibenchError(f"{manifest}: cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            try:
                records.append(ImageRecord.from_json(line))
            except (ValueError, TypeError) as error:
                raise ApibenchError(f"{manifest}, line {number}: not an image record: {error}") from error
        if not records:
            raise ApibenchError(f"{folder}: this image set is empty")
        return cls(folder, records)

    def check_folder(self) -> None:
        """Raises ApibenchError where the folder cannot be seen from here, such as from a machine that does not share it."""
        if not self.folder.is_dir():
            raise ApibenchError(f"{self.folder}: not there")

    def path(self, record: ImageRecord) -> Path:
        return self.folder / record.file

    def read_bytes(self, record: ImageRecord) -> bytes:
        """The bytes of the PNG. Raises ApibenchError where they are not those the manifest vouches for."""
        try:
            data = self.path(record).read_bytes()
        except OSError as error:
            raise ApibenchError(f"{self.path(record)}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise ApibenchError(
                f"{self.path(record)}: changed since it was written (its SHA-256 is not the manifest's)"
            )
        return data

    def read_pixels(self, record: ImageRecord) -> Pixels:
        """(H, W, 3) uint8. Raises ApibenchError where the file is not there, was changed, or is no PNG of the manifest's size."""
        data = self.read_bytes(record)
        try:
            pixels = decode_png(data)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ApibenchError(f"{self.path(record)}: not a PNG that can be read ({error!s:.100})") from error
        if pixels.shape[:2] != (record.height, record.width):
            height, width = pixels.shape[:2]
            raise ApibenchError(f"{self.path(record)}: is {width}x{height} pixels, not the manifest's")
        return pixels


class SetWriter:
    """Writes a set image by image, and picks up one whose making was interrupted.

    ``recipe`` is everything that decides what the images are. A folder that holds another recipe is refused.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps({"format": FORMAT_VERSION, **recipe}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        path = folder / RECIPE
        self._recipe = text.encode()
        if not path.is_file():
            strangers = folder.is_dir() and any(entry.suffix == ".png" for entry in folder.iterdir())
            if strangers and not path.is_file():  # looked at again: another shard may have begun the set just now
                raise ApibenchError(f"{folder}: has images in it that are no image set; name an empty or new folder")
            return  # written with the first image: a run that fails before leaves no set behind
        existing = path.read_text(encoding="utf-8")
        if existing != text:
            raise ApibenchError(
                f"{folder}: holds an image set made by another recipe ({difference(existing, text)}).\n"
                "Name another --out, or remove that folder."
            )

    def done(self, id: str) -> ImageRecord | None:
        """The record of an image that is already there, JSON and PNG both."""
        path = self.folder / f"{id}.json"
        try:
            record = ImageRecord.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return record if (self.folder / record.file).is_file() else None

    def write(self, id: str, pixels: Pixels, **about: Any) -> ImageRecord:
        """Write one image; ``about`` are fields of :class:`ImageRecord`. ``source`` defaults to the image itself."""
        data = encode_png(pixels)
        # The bound and the identity are those of the file as it is read back, so it is read back.
        if not np.array_equal(decode_png(data), pixels):
            raise AssertionError(f"{id}: PNG did not keep the pixels")
        identity = pixels_sha256(pixels)
        height, width, _ = pixels.shape
        about.setdefault("source", identity)
        about.setdefault("label", None)
        about.setdefault("label_source", None)
        record = ImageRecord(
            id=id,
            file=f"{id}.png",
            pixels_sha256=identity,
            sha256=hashlib.sha256(data).hexdigest(),
            width=width,
            height=height,
            **about,
        )
        if not (self.folder / RECIPE).is_file():
            write_atomically(self.folder / RECIPE, self._recipe)
        write_atomically(self.folder / record.file, data)
        write_atomically(self.folder / f"{id}.json", record.to_json().encode() + b"\n")
        return record

    def finish(self, ids: Iterable[str]) -> ImageSet | None:
        """Build the manifest from the JSON files, sorted by id; None while images of ``ids`` are missing (another shard's)."""
        records = [self.done(id) for id in sorted(ids)]
        present = [record for record in records if record is not None]
        if len(present) < len(records):
            return None
        text = "".join(record.to_json() + "\n" for record in present)
        path = self.folder / MANIFEST
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())
        return ImageSet(self.folder, present)


def difference(old: str, new: str) -> str:
    """The first setting in which two JSON objects differ, in words."""
    try:
        return _difference(json.loads(old), json.loads(new))
    except (ValueError, AttributeError):
        return "its set.json cannot be compared"


def _difference(old: dict[str, Any], new: dict[str, Any], within: str = "") -> str:
    key = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
        return _difference(a, b, f"{within}{key}.")
    return f"{within}{key}: {json.dumps(a)[:60]} there, {json.dumps(b)[:60]} now"
