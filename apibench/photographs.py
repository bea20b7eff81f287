"""Import: photographs as people have them, decoded once to upright 8-bit sRGB, into a clean image set."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from apibench.environment import versions
from apibench.errors import ApibenchError
from apibench.imageset import CLASSES, ImageRecord, ImageSet, Pixels, SetWriter
from apibench.progress import Progress

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
# Only these: Pillow would also hand PostScript to an interpreter, whatever the suffix says.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000  # a photograph has fewer; a decompression bomb has more


@dataclass(frozen=True)
class Photograph:
    """A file to import: its path, the id it gets in the set, and its ImageNet class (None: unknown)."""

    path: Path
    id: str
    label: int | None


@dataclass(frozen=True)
class Imported:
    """What an import brought: the set, the files that could not be decoded (file name, reason), and the files ignored.

    ``notes``: where the label file and the photographs do not match, a line each.
    """

    images: ImageSet
    failed: tuple[tuple[str, str], ...]
    ignored: int
    notes: tuple[str, ...] = ()


def decode(path: Path, max_side: int | None = None) -> Pixels:
    """Decode a photograph to upright sRGB, (H, W, 3) uint8, its longest side at most ``max_side`` (Lanczos).

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, 16-bit grey is scaled to 8 bits, and
    transparency is laid on white. Raises ApibenchError naming the file for what is no image, is truncated or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's bomb warning: the size is checked here, before any pixel is decoded
            with Image.open(path, formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                opened.load()
                image = _srgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        raise ApibenchError(f"{path}: more than {MAX_PIXELS // 10**6} million pixels") from error
    except UnidentifiedImageError as error:
        raise ApibenchError(f"{path}: not an image") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ApibenchError(f"{path}: cannot be decoded: {str(error)[:120]}") from error
    if max_side is not None and max(image.size) > max_side:
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.array(image, dtype=np.uint8)


def _srgb(image: Image.Image) -> Image.Image:
    """Any mode Pillow decodes, as RGB in sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "L", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a profile that does not fit its own image says nothing: the pixels are taken as they are
        if converted is not None:
            return converted
    return image.convert("RGB")


def packaged(source: str) -> list[Photograph]:
    """The photographs of an installed package. ``pypi:foolbox``: 20 of ImageNet, the class at the end of each file's name."""
    if source != "pypi:foolbox":
        raise ApibenchError(f"{source}: no such package of photographs; there is pypi:foolbox")
    spec = importlib.util.find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise ApibenchError(f"{source}: not installed; run: pip install foolbox")
    found = []
    for path in sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg")):
        match = re.fullmatch(r"imagenet_\d+_(\d{1,3})", path.stem)
        if match:
            found.append(Photograph(path, path.stem, int(match[1])))
    if not found:
        raise ApibenchError(
            f"{source}: the installed version has no photographs in it; run: pip install foolbox==3.3.4"
        )
    return found


def find(source: str | Path, labels: Path | None = None) -> tuple[list[Photograph], int]:
    """The photographs of a folder (or package), sorted by name, with their labels, and the number of files ignored.

    ``labels``: a file of them; None: the folder's ``labels.csv``, if any. Raises ApibenchError where there is no photograph, or
    the file names none of them.
    """
    if str(source).startswith("pypi:"):
        if labels is not None:
            raise ApibenchError(f"{labels}: {source} has labels of its own; leave --labels out")
        return packaged(str(source)), 0
    folder = Path(source)
    if not folder.is_dir():
        raise ApibenchError(f"{folder}: no such folder")
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    images = [entry for entry in files if entry.suffix.lower() in SUFFIXES]
    if not images:
        raise ApibenchError(f"{folder}: no image in it (looked for {', '.join(sorted(SUFFIXES))}, not in subfolders)")
    labels = _label_file(folder, labels)
    by_name = read_labels(labels) if labels else {}
    if labels and not any(entry.name in by_name for entry in images):
        raise ApibenchError(f"{labels}: names no image of {folder} in its column 'file'")
    photographs = [
        Photograph(entry, id, by_name.get(entry.name)) for entry, id in zip(images, _ids(images), strict=True)
    ]
    return photographs, len(files) - len(images) - (labels is not None and labels.parent == folder)


def _label_file(folder: Path, labels: Path | None) -> Path | None:
    return folder / "labels.csv" if labels is None and (folder / "labels.csv").is_file() else labels


def _mismatches(
    source: str | Path, labels: Path | None, there: list[Photograph], imported: list[Photograph]
) -> tuple[str, ...]:
    """A line for rows that name no photograph, one for those ``imported`` without a row: a misspelt name makes both."""
    file = None if str(source).startswith("pypi:") else _label_file(Path(source), labels)
    if file is None:
        return ()
    names = {photograph.path.name for photograph in there}
    astray = [name for name in read_labels(file) if name not in names]
    bare = [photograph.path.name for photograph in imported if photograph.label is None]
    notes = []
    if astray:
        notes.append(
            f"{file}: {_several(astray, 'row')} without a photograph in {source} (the first: {astray[0]!r:.80})"
        )
    if bare:
        notes.append(
            f"{file}: {_several(bare, 'photograph')} without a row (the first: {bare[0]!r:.80}); an attack takes for their class "
            "what the classifiers predict"
        )
    return tuple(notes)


def _several(those: list[str], what: str) -> str:
    return f"{len(those)} {what}{'' if len(those) == 1 else 's'}"


def read_labels(path: Path, column: str = "label") -> dict[str, int]:
    """Read a label file: CSV with the columns ``file`` and ``column`` (an ImageNet-1k class index, 0-999)."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not rows.fieldnames or not {"file", column} <= set(rows.fieldnames):
                raise ApibenchError(f"{path}: needs a header line with the columns 'file' and {column!r}")
            labels: dict[str, int] = {}
            for row in rows:
                name, text = row["file"] or "", (row[column] or "").strip()
                if not text.isdecimal() or int(text) >= CLASSES:
                    raise ApibenchError(
                        f"{path}, line {rows.line_num}: {column} {text[:40]!r} is not a class index from 0 to {CLASSES - 1}"
                    )
                if labels.setdefault(name, int(text)) != int(text):
                    raise ApibenchError(f"{path}, line {rows.line_num}: a second, different {column} for {name!r}")
            return labels
    except FileNotFoundError as error:
        raise ApibenchError(f"{path}: no such file; it has the columns 'file' and {column!r}") from error
    except OSError as error:
        raise ApibenchError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ApibenchError(f"{path}: cannot be read as CSV: {error}") from error


def _ids(paths: list[Path]) -> Iterator[str]:
    """Ids from file names: plain letters, digits, '-', '_'. A name that loses something by that gets a hash of itself."""
    plain = [_plain(path) for path in paths]
    lowered = [id.lower() for id in plain]  # some file systems do not tell case
    for path, id, lower in zip(paths, plain, lowered, strict=True):
        yield _hashed(path) if id != path.stem or lowered.count(lower) > 1 else id


def possible_ids(name: str) -> tuple[str, ...]:
    """The ids that an image may have in a set which somebody calls ``name``: its id, or the name of its file."""
    return name, _plain(Path(name)), _hashed(Path(name))


def _plain(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:80]


def _hashed(path: Path) -> str:
    return f"{_plain(path)}-{hashlib.sha256(path.name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes. Raises ApibenchError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ApibenchError(f"{path}: cannot be read: {error.strerror}") from error


def _check_unchanged(photograph: Photograph, record: ImageRecord, out: Path) -> None:
    if record.extra.get("photograph_sha256") != file_sha256(photograph.path):
        raise ApibenchError(
            f"{photograph.path}: is another picture than when it was imported into {out}.\n"
            "Name another folder to import to, or remove that one and all that was made from it."
        )


def import_folder(
    source: str | Path, out: Path, *, labels: Path | None = None, max_side: int = 512, limit: int | None = None
) -> Imported:
    """Import a folder (or package) of photographs into the clean image set ``out``; what is already there stays untouched.

    Files that cannot be decoded are left out and returned. Raises ApibenchError where not one can be.
    """
    there, ignored = find(source, labels)
    photographs = there[:limit]
    names = hashlib.sha256("\n".join(f"{p.path.name}\t{p.label}" for p in photographs).encode("utf-8", "replace"))
    writer = SetWriter(
        out,
        {"stage": "import", "max_side": max_side, "files": len(photographs), "names_sha256": names.hexdigest()},
    )
    failed: list[tuple[str, str]] = []
    kept: list[str] = []
    for photograph in Progress(photographs, "import", unit="image"):
        existing = writer.done(photograph.id)
        if existing is not None:
            _check_unchanged(photograph, existing, out)
        else:
            try:
                digest = file_sha256(photograph.path)
                pixels = decode(photograph.path, max_side)
            except ApibenchError as error:
                failed.append((photograph.path.name, str(error)))
                continue
            writer.write(
                photograph.id,
                pixels,
                variant="clean",
                label=photograph.label,
                label_source=None if photograph.label is None else "given",
                settings={"max_side": max_side},
                versions=versions(),
                extra={"photograph_sha256": digest},
            )
        kept.append(photograph.id)
    if not kept:
        raise ApibenchError(
            f"{source}: not one of its {len(photographs)} images can be decoded; the first:\n{failed[0][1]}"
        )
    images = writer.finish(kept)
    assert images is not None
    return Imported(images, tuple(failed), ignored, _mismatches(source, labels, there, photographs))
