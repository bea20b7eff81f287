"""With what a report is compared: another campaign of its store, or another store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from apibench import text
from apibench.errors import ApibenchError
from apibench.query.schema import see_as_current
from apibench.report import compare, frames
from apibench.report.against.changes import Change, changes
from apibench.report.against.sides import Apart, Side, matched
from apibench.report.compare import Answers

_SQLITE = b"SQLite format 3\0"  # how such a file begins: https://www.sqlite.org/fileformat.html#the_database_header


@dataclass(frozen=True)
class Comparison:
    """``name`` says what is compared with, in plain text; ``store`` and ``campaign`` are that. ``apart``: what is not compared.

    ``of_another``: whether the store is another one than the report's. Its file name is not in ``name``, since it may change.
    ``relabelled``: of how many photographs the store of then has another class than the report, by whose classes both are judged.
    """

    name: str
    store: Path
    campaign: str
    changes: list[Change]
    apart: list[Apart]
    relabelled: int
    of_another: bool

    @property
    def pairs(self) -> list[tuple[Side, Side]]:
        return list({id(change.now): (change.then, change.now) for change in self.changes}.values())


def compare_with(spec: str, store: Path, groups: Sequence[Answers]) -> Comparison:
    """Compare the answers of a report with those that ``spec`` names: STORE, STORE:CAMPAIGN, or a CAMPAIGN of the same store.

    Raises ApibenchError where there is no such thing, it has several campaigns, or nothing in it is of the same files.
    """
    path, campaign = _named(spec, store)
    try:
        read = frames.read(path, campaign)
    except ApibenchError as error:
        raise ApibenchError(f"--against {spec}: {error}") from error
    campaigns = sorted(set(read.outcomes["campaign"]))
    if len(campaigns) > 1:
        names = text.plain(", ".join(campaigns), 200)
        raise ApibenchError(
            f"--against {path}: has several campaigns; name one, as in {path}:{text.plain(campaigns[0], 60)} (it has: {names})"
        )
    same = path.samefile(store)
    now = [answers for answers in groups if not (same and answers.group.campaign == campaigns[0])]
    if not now:
        raise ApibenchError(f"--against {spec}: the report is about that very campaign; name an earlier one")
    name = f"campaign {text.plain(campaigns[0], 60)}" + ("" if same else " of another store")
    then, truth = compare.answers(read), now[0].truth
    for answers in then:
        # Else labels put right between the two would look like a change of the vendor's.
        answers.truth = truth
    found, apart = _compared(then, now, spec)
    earlier = read.truth()
    sources = {source for change in found for source in change.sources if source in earlier and source in truth}
    relabelled = sum(earlier[source] != truth[source] for source in sources)
    return Comparison(name, path, campaigns[0], found, apart, relabelled, not same)


def _compared(then: Sequence[Answers], now: Sequence[Answers], spec: str) -> tuple[list[Change], list[Apart]]:
    pairs, apart = matched(then, now)
    if not pairs:
        reasons = "; ".join(f"{one.what}: {one.why}" for one in apart)
        raise ApibenchError(
            f"--against {spec}: no provider answered in the same way on both sides ({text.plain(reasons, 400)})"
        )
    found: list[Change] = []
    for pair in pairs:
        own, left = changes(*pair)
        found += own
        apart += left
    if not found:
        raise ApibenchError(
            f"--against {spec}: no image there is one of this report's (the SHA-256 of what was sent differs);\n"
            "ask about the same image sets again, then compare"
        )
    return found, apart


def _named(spec: str, store: Path) -> tuple[Path, str | None]:
    """The store and campaign (None: the only one) that are meant. A bare name is a campaign's before it is a file's."""
    campaigns = _campaigns(store)
    is_path = any(separator in spec for separator in (os.sep, os.altsep) if separator)
    if spec in campaigns and not is_path:
        return store, spec
    head, _, campaign = spec.rpartition(":")
    for path, name in ((spec, None), (head, campaign)):
        if path and _is_store(Path(path)):
            return Path(path), name
    if spec in campaigns:
        return store, spec
    names = text.plain(", ".join(campaigns), 200)
    raise ApibenchError(
        f"--against {text.plain(spec, 200)}: neither a store (an SQLite file) nor a campaign of {store} (it has: {names})"
    )


def _is_store(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except (OSError, ValueError):  # no file, a folder, or no name that a file can have
        return False


def _campaigns(store: Path) -> list[str]:
    with closing(frames.connect(store)) as connection:
        see_as_current(store, connection)
        return sorted(name for (name,) in connection.execute("SELECT DISTINCT campaign FROM v_outcomes"))
