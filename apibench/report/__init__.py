"""Reports: a response store in, tables, a picture and a page out. All is computed from the store and the files it names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from apibench.errors import ApibenchError
from apibench.imageset import write_atomically
from apibench.report import compare, document, frames, page, tables
from apibench.report.picture import Files, draw

__all__ = ["ReportFiles", "main_table", "write_report"]


@dataclass(frozen=True)
class ReportFiles:
    """What was written. ``picture`` is None where the image files are not at hand. ``main_table`` is for a terminal.

    ``page`` is for a browser: one file that needs no other, and no network.
    """

    report: Path
    table: Path
    noise: Path
    answers: Path
    picture: Path | None
    page: Path
    main_table: str


def main_table(store: Path, campaign: str | None = None) -> str:
    """The API benchmark table of a store with its caption, as aligned Markdown. Raises ApibenchError like write_report."""
    return tables.main_table(compare.rows(compare.answers(frames.read(store, campaign))))


def write_report(store: Path, out: Path, campaign: str | None = None) -> ReportFiles:
    """Write ``report.md``, ``index.html``, ``table.csv``, ``noise.csv``, ``answers.csv`` and ``picture.png`` into ``out``.

    All campaigns of the store, each in rows of its own, or the one named. The same store and images give the same bytes.
    Raises ApibenchError where the store cannot be read, or ``out`` cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ApibenchError(f"{out}: is not a folder; --out names the folder the report is written to")
    found = frames.read(store, campaign)
    groups = compare.answers(found)
    rows = compare.rows(groups)
    files = Files(store, found.images)
    noise = document.measure_noise(found, files)
    picture = draw(groups, files)
    text = document.write(found, groups, rows, noise, picture, store.name, _sha256(store))

    contents = {
        "table.csv": tables.table_csv(rows).encode(),
        "answers.csv": tables.answers_csv(groups).encode(),
        "noise.csv": document.noise_csv(noise).encode(),
    }
    if picture is not None:
        contents["picture.png"] = picture.png
    # The document comes last: where it is, what it refers to is there too.
    contents["report.md"] = text.encode()
    page.write(out / "index.html", groups, rows, files)
    for name, data in contents.items():
        write_atomically(out / name, data)
    if picture is None:
        # One left by an earlier report would be taken for a picture of this store.
        (out / "picture.png").unlink(missing_ok=True)
    return ReportFiles(
        report=out / "report.md",
        table=out / "table.csv",
        noise=out / "noise.csv",
        answers=out / "answers.csv",
        picture=out / "picture.png" if picture is not None else None,
        page=out / "index.html",
        main_table=tables.main_table(rows),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
