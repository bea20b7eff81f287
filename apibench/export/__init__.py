"""A folder that can be published: raw responses, what was asked, the report made from them, and a data card.

It stands for itself: ``store.sqlite`` in it is a store like any other, from which the report in it can be made again, and
verified. There are no keys in it, no folders of this machine, and no images unless they are asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apibench.errors import ApibenchError
from apibench.export import card, copying
from apibench.export.secrets import Scanner
from apibench.imageset import MANIFEST, ImageRecord, ImageSet, write_atomically, write_pieces
from apibench.report import provenance, write_report

__all__ = ["Exported", "export_store"]

STORE, REPORT, CARD, SUMS = "store.sqlite", "report", "README.md", "SHA256SUMS"


@dataclass(frozen=True)
class Exported:
    """What was written: how many of each, and the image files that were asked for and are not at hand (a line each)."""

    folder: Path
    responses: int
    attempts: int
    images: int
    files: int
    missing: tuple[str, ...]


def export_store(store: Path, out: Path, *, images: bool = False, campaign: str | None = None) -> Exported:
    """Write all campaigns of a store, or the one named, into a folder to publish; ``images``: with the PNG files too.

    The folder appears whole or not at all; one that was exported before is replaced. Raises ApibenchError where it holds anything
    else, the store cannot be read, or anything in it looks like a key.
    """
    _check_own(out)
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed
        part.mkdir(parents=True)
        found = _write(store, part, images=images, campaign=campaign)
        _put(part, out)
    except OSError as error:
        raise ApibenchError(f"{out}: cannot be written: {error.strerror or error}") from error
    except ApibenchError as error:
        raise ApibenchError(f"{out}: not written. {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(out, **found)


def _write(store: Path, part: Path, *, images: bool, campaign: str | None) -> dict[str, Any]:
    copied = part / STORE
    places = copying.copy(store, copied, campaign)
    try:
        scanner = copying.check(copied)
    except ApibenchError as error:
        raise ApibenchError(f"In {store}: {error}.\nLeave that campaign out with --campaign, or that answer.") from None
    sets = {folder: _image_set(place) for folder, place in places.items()}
    counts = {
        table: _write_lines(part / f"{table}.jsonl", copying.rows(copied, table)) for table in ("responses", "attempts")
    }
    listed = list(_listed(copied, sets))
    _write_lines(part / "images.jsonl", listed)
    missing = _copy_images(part, places, listed, sets) if images else []
    recipe = store.parent / provenance.RUN_RECIPE
    if recipe.is_file():
        said = provenance.recipe_text(recipe)
        if said is not None:
            write_atomically(part / recipe.name, said.encode())
    write_report(copied, part / REPORT, campaign)
    pictures = len(listed) - len(missing) if images else 0
    write_atomically(part / CARD, card.write(copied, listed, pictures, with_images=images).encode())
    _check_files(part, scanner)
    names = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    sums = "".join(f"{provenance.sha256(part / name)}  {name}\n" for name in names)
    write_atomically(part / SUMS, sums.encode())
    return {**counts, "images": pictures, "files": len(names) + 1, "missing": tuple(missing)}


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """One JSON object a line, keys sorted; how many."""
    count = 0

    def lines() -> Iterable[bytes]:
        nonlocal count
        for row in rows:
            count += 1
            yield json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    write_pieces(path, lines())
    return count


# --- images ---


def _image_set(folder: Path) -> dict[str, ImageRecord]:
    """The records of an image set by the hash of what was sent; none where it is not at hand."""
    if not (folder / MANIFEST).is_file():  # nor a pipe or a device
        return {}
    try:
        return {record.sha256: record for record in ImageSet.load(folder).records}
    except ApibenchError:
        return {}


def _listed(copied: Path, sets: dict[str, dict[str, ImageRecord]]) -> Iterable[dict[str, Any]]:
    """What the store knows of each image, and how it was made, where its manifest is at hand."""
    for row in copying.rows(copied, "images"):
        record = sets[row["folder"]].get(row["sha256"])
        if record is not None:
            made = {
                name: getattr(record, name)
                for name in ("width", "height", "settings", "versions", "device", "threads", "extra")
            }
            row |= provenance.without_folders(made)
        yield row


def _copy_images(
    part: Path, places: dict[str, Path], listed: Sequence[dict[str, Any]], sets: dict[str, dict[str, ImageRecord]]
) -> list[str]:
    """Copy what still is what was sent, with a manifest for each folder; a line for each image that is not at hand."""
    missing = []
    manifests: dict[str, dict[str, str]] = {}
    for row in listed:
        folder, name, sha256 = row["folder"], str(row["file"]), row["sha256"]
        plain = Path(name).name == name and not name.startswith(".")
        file = places[folder] / name
        if not plain or not file.is_file() or provenance.sha256(file) != sha256:
            missing.append(f"{folder}/{Path(name).name}: not at hand, or no longer what was sent")
            continue
        (part / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, part / folder / name)
        if sha256 in sets[folder]:
            record = json.loads(sets[folder][sha256].to_json())
            text = json.dumps(provenance.without_folders(record), sort_keys=True, ensure_ascii=False)
            manifests.setdefault(folder, {})[record["id"]] = text + "\n"
    for folder, lines in manifests.items():
        write_atomically(part / folder / MANIFEST, "".join(line for _, line in sorted(lines.items())).encode())
    return missing


# --- the folder ---


def _check_files(part: Path, scanner: Scanner) -> None:
    """Raises ApibenchError naming the file and the line of what looks like a key in a text that is published.

    Left out is what holds the checked store's own rows and nothing else, with bytes in base64 that any form may be found in.
    """
    for path in sorted(path for path in part.rglob("*") if path.is_file() and path.suffix not in (".sqlite", ".png")):
        name = path.relative_to(part).as_posix()
        if name in ("responses.jsonl", "attempts.jsonl") or name.startswith(f"{REPORT}/index"):
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if found := scanner.find(line):
                    raise ApibenchError(f"{name}, line {number}: {found}.")


def _check_own(out: Path) -> None:
    """Raises ApibenchError unless ``out`` is absent, empty, or an export and nothing else, as it was written."""
    if out.name in ("", ".."):
        raise ApibenchError(f"{out}: the folder is replaced as a whole, so --out gives it by a name of its own")
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise ApibenchError(f"{out}: is not a folder; --out names the folder that is written")
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    try:
        sums = {line[66:]: line[:64] for line in (out / SUMS).read_text(encoding="utf-8").splitlines()}
    except (OSError, UnicodeDecodeError):
        sums = {}
    listed = sums.keys() | ({SUMS} if sums else set())
    if strangers := sorted(there - listed):
        raise ApibenchError(f"{out}: holds {strangers[0]!s:.80}, which no export wrote; name an empty or new folder")
    edited = [name for name, digest in sorted(sums.items()) if name in there and not _is(out / name, digest)]
    if edited:
        raise ApibenchError(
            f"{out}: {edited[0]!s:.80} was changed since it was exported, and would be lost; name a new folder, or remove it"
        )


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and provenance.sha256(file) == digest


def _put(part: Path, out: Path) -> None:
    """Let the new folder take the old one's place; for a moment there is none, never half of one."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
