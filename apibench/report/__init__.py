"""Reports: a response store in, tables, a picture and a page out. All is computed from the store and the files it names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from apibench.errors import ApibenchError
from apibench.imageset import write_atomically
from apibench.report import against as changes
from apibench.report import benchmark, compare, document, figures, frames, page, provenance, strength, tables, words
from apibench.report.picture import Files, draw
from apibench.report.sheets import FOLDER

__all__ = ["ReportFiles", "main_table", "write_report"]


@dataclass(frozen=True)
class ReportFiles:
    """What was written. ``picture`` is None where the image files are not at hand. ``summary`` is for a terminal.

    ``page`` is for a browser and needs no network: one file, of many pictures with ``index_files`` beside it. ``tables``: those
    of the folder ``tables``, each as Markdown, CSV and LaTeX. ``changes``: what changed since what the report was set against,
    in words, a line a provider.
    """

    report: Path
    table: Path
    noise: Path
    answers: Path
    picture: Path | None
    page: Path
    main_table: str
    summary: str
    tables: tuple[Path, ...] = ()
    changes: str = ""


def main_table(store: Path, campaign: str | None = None) -> str:
    """The API benchmark table of a store with its caption, as aligned Markdown. Raises ApibenchError like write_report."""
    return tables.main_table(compare.rows(compare.answers(frames.read(store, campaign))))


def write_report(
    store: Path, out: Path, campaign: str | Collection[str] | None = None, against: str | None = None
) -> ReportFiles:
    """Write a report into ``out``: ``report.md``, ``index.html``, ``table.csv`` and other tables, ``answers.csv``, a picture.

    Of all campaigns of the store, each in rows of its own, or those named. ``against``: a store (``STORE``, ``STORE:CAMPAIGN``)
    or another campaign of this one, to say what changed since. The same store and images give the same bytes. Raises
    ApibenchError where a store cannot be read, there is nothing to set against, or ``out`` cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ApibenchError(f"{out}: is not a folder; --out names the folder the report is written to")
    found = frames.read(store, campaign)
    groups = compare.answers(found)
    rows = compare.rows(groups)
    files = Files(store, found.images)
    noise = document.measure_noise(found, files)
    picture = draw(groups, files)
    since = None if against is None else changes.compare_with(against, store, groups)
    campaigns = sorted({str(name) for name in found.outcomes["campaign"]})
    hashes = provenance.StoreHashes.of(store, campaigns)
    sheets = [*strength.sheets(groups), *benchmark.sheets(groups), *([changes.sheet(since)] if since else [])]
    drawn = figures.draw(found, groups, rows, files)
    text = document.write(found, groups, rows, noise, picture, store.name, hashes.file, sheets, since, drawn)

    contents = {
        "table.csv": tables.table_csv(rows).encode(),
        "answers.csv": tables.answers_csv(groups).encode(),
        "noise.csv": document.noise_csv(noise).encode(),
    }
    for sheet in sheets:
        contents |= sheet.files
    for figure in drawn:
        contents |= figure.files
    if picture is not None:
        contents["picture.png"] = picture.png
    # The document comes last: where it is, what it refers to is there too.
    contents["report.md"] = text.encode()
    pages = page.write(out / "index.html", groups, rows, files, found.truth())
    for name, data in contents.items():
        write_atomically(out / name, data)
    _remove_earlier_tables(out, contents)
    figures.remove_earlier(out, drawn)
    if picture is None:
        # One left by an earlier report would be taken for a picture of this store.
        (out / "picture.png").unlink(missing_ok=True)
    asked = {"campaign": campaign if isinstance(campaign, str) else None, "campaigns": campaigns, **_about(since)}
    provenance.write(out, store, hashes, map(str, found.images["folder"]), [*contents, *pages], asked)
    return ReportFiles(
        report=out / "report.md",
        table=out / "table.csv",
        noise=out / "noise.csv",
        answers=out / "answers.csv",
        picture=out / "picture.png" if picture is not None else None,
        page=out / "index.html",
        main_table=tables.main_table(rows),
        summary=words.summary(rows),
        tables=tuple(out / name for name in contents if name.startswith(f"{FOLDER}/")),
        changes=changes.in_words(since) if since else "",
    )


def _about(since: changes.Comparison | None) -> dict[str, dict[str, str]]:
    """What the provenance says of what a report was set against."""
    if since is None:
        return {}
    hashes = provenance.StoreHashes.of(since.store, [since.campaign])
    known = {"store": since.store.name, "sha256": hashes.file, "answers_sha256": hashes.answers}
    return {"against": {**known, "campaign": since.campaign}}


def _remove_earlier_tables(out: Path, written: Collection[str]) -> None:
    """Take away tables of an earlier report into the same folder: they would be taken for tables of this store."""
    for form in ("md", "csv", "tex"):
        for kind in ("strength-", "agreement-", "correct-", "class-", changes.NAME):
            for path in sorted((out / FOLDER).glob(f"{kind}*.{form}")):
                if f"{FOLDER}/{path.name}" not in written:
                    path.unlink()
