"""What a store holds, and what it cost: ``apibench query --status``. The store is only read, and nothing is sent."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from apibench.errors import ApibenchError
from apibench.query import pricing
from apibench.query.forecast import dollars
from apibench.query.store import CRASHED, Key, ResponseStore

_BY_KEY = "campaign, provider, origin, settings"
_IMAGES = f"""
SELECT {_BY_KEY}, outcome, COUNT(*) FROM (
  SELECT a.campaign, a.provider, a.origin, a.settings,
         CASE WHEN r.sha256 IS NOT NULL THEN 'answered'
              WHEN SUM(a.error_kind = 'rejected') > 0 THEN 'refused'
              WHEN SUM(a.outcome IS NULL OR a.outcome = 'uncertain') > 0 THEN 'uncertain'
              ELSE 'failed' END AS outcome
  FROM attempts AS a LEFT JOIN responses AS r USING (campaign, provider, origin, settings, sha256)
  GROUP BY a.campaign, a.provider, a.origin, a.settings, a.sha256)
GROUP BY {_BY_KEY}, outcome
"""  # noqa: S608 - of constants only
_LOST = "(outcome IS NULL OR outcome = 'uncertain')"
_REQUESTS = f"""
SELECT {_BY_KEY},
       COUNT(DISTINCT CASE WHEN sent THEN request END),
       COUNT(DISTINCT CASE WHEN {_LOST} THEN request END),
       COUNT(DISTINCT CASE WHEN outcome IS NULL OR error_message = ? THEN request END),
       COUNT(DISTINCT CASE WHEN NOT sent THEN request END),
       TOTAL(CASE WHEN billing = 'yes' THEN price END),
       TOTAL(CASE WHEN sent AND billing IS NOT 'yes' AND billing IS NOT 'no' THEN price END),
       COUNT(CASE WHEN sent AND billing IS NOT 'no' AND price IS NULL THEN 1 END),
       COUNT(CASE WHEN sent AND billing IS NOT 'no' AND price IS NOT NULL THEN 1 END)
FROM attempts GROUP BY {_BY_KEY} ORDER BY {_BY_KEY}
"""  # noqa: S608
_VERSIONS = f"SELECT {_BY_KEY}, model_version, COUNT(*) FROM responses GROUP BY {_BY_KEY}, model_version"  # noqa: S608

# What must hold of a store at any moment, whatever killed its writer: a query for what contradicts it, and its name.
_INVARIANTS = {
    "answered attempts without a response": """
        SELECT COUNT(*) FROM attempts WHERE outcome = 'answered'
        AND NOT EXISTS (SELECT 1 FROM responses WHERE attempt_id = attempts.id)""",
    "responses without an answered attempt of the same image and key": """
        SELECT COUNT(*) FROM responses AS r WHERE NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.id = r.attempt_id
        AND a.outcome = 'answered' AND (a.campaign, a.provider, a.origin, a.settings, a.sha256)
        = (r.campaign, r.provider, r.origin, r.settings, r.sha256))""",
    "attempts with an outcome and no time, or the other way round": """
        SELECT COUNT(*) FROM attempts WHERE (outcome IS NULL) <> (finished_at IS NULL)""",
    "attempts of no request": """
        SELECT COUNT(*) FROM attempts AS a WHERE a.request IS NULL
        OR NOT EXISTS (SELECT 1 FROM attempts AS f WHERE f.id = a.request AND f.campaign = a.campaign)""",
    "answers or uncertain attempts that are not counted as billed": """
        SELECT COUNT(*) FROM attempts WHERE outcome = 'answered' AND (billing IS NOT 'yes' OR NOT sent)
        OR outcome = 'uncertain' AND (billing IS NOT 'maybe' OR NOT sent)""",
    "billed attempts that were never sent": "SELECT COUNT(*) FROM attempts WHERE NOT sent AND billing IS NOT 'no'",
    "responses whose labels are not JSON": "SELECT COUNT(*) FROM responses WHERE NOT json_valid(labels)",
}


@dataclass
class Standing:
    """One campaign, provider, origin and settings. ``images``: by outcome. The other counts are of requests.

    ``uncertain`` ones are among those sent, and ``in_flight`` among the uncertain ones: on their way when their program ended,
    or at this moment. ``unsent`` never reached the vendor. ``spent``: US dollars by list price for answers; ``perhaps``: for all
    else that may have been billed. ``unpriced`` and ``priced``: images that were or may have been billed when no price was known,
    or one was. ``versions``: answers by model version.
    """

    key: Key
    requests: int
    uncertain: int
    in_flight: int
    unsent: int
    spent: float
    perhaps: float
    unpriced: int
    priced: int
    images: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("answered", "refused", "failed", "uncertain"), 0)
    )
    versions: dict[str | None, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a person: a heading, and three or four lines under it."""
        key, counts = self.key, self.images
        sent = [f"{self.requests} sent", f"{self.uncertain} uncertain (may have been billed)"]
        sent += [f"{self.in_flight} of them in flight when the program ended"] if self.in_flight else []
        sent += [f"{self.unsent} never sent (not counted)"] if self.unsent else []
        return [
            f"campaign {key.campaign}, {key.provider}, {key.origin} ({_settings(key.settings)})",
            f"  images:   {sum(counts.values())} asked about: "
            + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
            f"  requests: {', '.join(sent)}",
            f"  spent:    {self._spent()}",
            *self._models(),
        ]

    def _spent(self) -> str:
        if not self.key.is_real:
            return f"nothing ({self.key.origin})"
        unknown = f"{self.unpriced} images of unknown price"
        if self.unpriced and not self.priced:
            return unknown
        total = (
            f"{dollars(self.spent + self.perhaps)}: {dollars(self.spent)} for certain, {dollars(self.perhaps)} perhaps"
        )
        return f"at least {total}, and {unknown}" if self.unpriced else total

    def _models(self) -> list[str]:
        named = {version: count for version, count in self.versions.items() if version is not None}
        if not named:
            return []
        counts = ", ".join(f"{version} ({count})" for version, count in named.items())
        changed = "; the vendor's model has changed, and the answers are kept apart" if len(named) > 1 else ""
        return [f"  models:   {counts}{changed}"]


def standings(store: ResponseStore) -> list[Standing]:
    """How it stands with every campaign, provider, origin and settings of a store, sorted."""
    with store.reading() as connection:
        requests = connection.execute(_REQUESTS, (CRASHED,)).fetchall()
        found = {Key(*row[:4]): Standing(Key(*row[:4]), *row[4:]) for row in requests}
        for *key, outcome, count in connection.execute(_IMAGES):
            found[Key(*key)].images[outcome] = count
        for *key, version, count in connection.execute(_VERSIONS):
            found[Key(*key)].versions[version] = count
    return list(found.values())


def describe(store: ResponseStore, prices: Path | None = None, provider: str | None = None) -> list[str]:
    """The standings as lines, with the errors that are taken as not billed. ``provider``: only this one's."""
    shown = [one for one in standings(store) if provider in (None, one.key.provider)]
    if not shown:
        return [f"{store.path}: nothing was asked{f' of {provider}' if provider else ''} yet"]
    lines = [line for one in shown for line in one.lines()]
    tables = defaultdict(list)
    for name in sorted({one.key.provider for one in shown if one.key.is_real}):
        tables[str(pricing.unbilled(name, prices))].append(name)
    if tables:
        lines.append(f"Prices are list prices of {pricing.dated(prices)}. Every error counts as spent, but for these:")
        lines += [f"  not billed by {', '.join(names)}: {errors}" for errors, names in tables.items()]
    return lines


def check(store: ResponseStore) -> list[str]:
    """What is wrong with a store, a line each: the file itself (as SQLite checks it), and what must hold of its rows."""
    problems = []
    try:
        with store.reading() as connection:
            for (line,) in connection.execute("PRAGMA integrity_check(20)"):
                problems += [line] if line != "ok" else []
            for name, sql in _INVARIANTS.items():
                (count,) = connection.execute(sql).fetchone()
                problems += [f"{count} {name}"] if count else []
    except ApibenchError as error:
        return [*(f"{store.path}: {problem}" for problem in problems), str(error)]
    return [f"{store.path}: {problem}" for problem in problems]


def _settings(text: str) -> str:
    """Settings as they are given on the command line."""
    try:
        return ", ".join(f"{name}={value}" for name, value in json.loads(text).items()) or "no settings"
    except (ValueError, AttributeError):
        return text
