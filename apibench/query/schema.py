"""The response store's tables, and how a store of an earlier version becomes one of this."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from apibench.errors import ApibenchError

VERSION = "2"
READABLE = ("1", VERSION)
_WRITES, _READS = f"writes version {VERSION}", f"reads versions {READABLE[0]} to {VERSION}"

_OUTCOMES = """
-- One row an image: answered, refused for good, or failed; the error is the last attempt's (SQLite takes the other columns
-- of the row that MAX picks). The price is that of all attempts that were, or may have been, billed.
CREATE VIEW v_outcomes AS
SELECT a.campaign, a.provider, a.origin, a.settings, a.sha256,
       CASE WHEN r.sha256 IS NOT NULL THEN 'answered'
            WHEN SUM(a.error_kind = 'rejected') > 0 THEN 'rejected'
            ELSE 'failed' END AS outcome,
       r.labels, r.model_version, r.raw,
       a.error_kind, a.error_code, a.error_message,
       COUNT(*) AS attempts, r.latency, SUM(CASE WHEN a.billing IS NOT 'no' THEN a.price END) AS price,
       MAX(a.id) AS last_attempt
FROM attempts AS a LEFT JOIN responses AS r USING (campaign, provider, origin, settings, sha256)
GROUP BY a.campaign, a.provider, a.origin, a.settings, a.sha256;
"""

# Of a campaign: how many requests went out, and what they cost. All that either question needs is in the index.
_INDEX = "CREATE INDEX spent_by ON attempts (campaign, sent, request, billing, price);"

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('schema_version', '{VERSION}');

-- What was asked about. One image may be several variants (a purifier that changes nothing), so the key is all three.
CREATE TABLE images (
  sha256 TEXT NOT NULL, variant TEXT NOT NULL, source TEXT NOT NULL, image_id TEXT NOT NULL,
  label INTEGER, label_source TEXT, pixels_sha256 TEXT NOT NULL, folder TEXT NOT NULL, file TEXT NOT NULL,
  PRIMARY KEY (sha256, variant, source));

-- One row an image of a request: the intent, then its outcome. 'request' is the id of the first row of the same request, 'sent'
-- is 0 where it is certain that nothing reached the vendor, 'billing' says whether the vendor bills the image (NULL, before
-- there is an outcome, counts as 'maybe'), and 'sent_sha256' is that of the bytes sent, where they are not those of the file.
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  campaign TEXT NOT NULL, provider TEXT NOT NULL, origin TEXT NOT NULL, settings TEXT NOT NULL, sha256 TEXT NOT NULL,
  started_at TEXT NOT NULL, finished_at TEXT,
  outcome TEXT CHECK (outcome IN ('answered', 'error', 'uncertain')),
  error_kind TEXT, error_code TEXT, error_message TEXT, http_status INTEGER, raw BLOB, latency REAL, price REAL,
  request INTEGER, sent INTEGER NOT NULL DEFAULT 1, billing TEXT CHECK (billing IN ('yes', 'maybe', 'no')),
  sent_sha256 TEXT);
CREATE INDEX attempts_of ON attempts (campaign, provider, origin, settings, sha256);
{_INDEX}

CREATE TABLE responses (
  campaign TEXT NOT NULL, provider TEXT NOT NULL, origin TEXT NOT NULL, settings TEXT NOT NULL, sha256 TEXT NOT NULL,
  attempt_id INTEGER NOT NULL UNIQUE REFERENCES attempts (id),
  raw BLOB NOT NULL, labels TEXT NOT NULL, model_version TEXT, request_id TEXT, latency REAL, received_at TEXT NOT NULL,
  price REAL,
  PRIMARY KEY (campaign, provider, origin, settings, sha256));
{_OUTCOMES}"""  # noqa: S608 - of constants only, as all below

# Version 1 sent one image a request, counted every request as sent, and wrote down no billing: the same kinds of error that
# all four vendors' tables call unbilled now are taken for it.
_BILLING_OF_1 = (
    "CASE outcome WHEN 'answered' THEN 'yes' WHEN 'error' THEN "
    "CASE WHEN error_kind IN ('throttled', 'credentials', 'quota') THEN 'no' ELSE 'maybe' END ELSE 'maybe' END"
)
_FROM_1 = f"""
BEGIN IMMEDIATE;
DROP VIEW v_outcomes;
ALTER TABLE attempts ADD COLUMN request INTEGER;
ALTER TABLE attempts ADD COLUMN sent INTEGER NOT NULL DEFAULT 1;
ALTER TABLE attempts ADD COLUMN billing TEXT CHECK (billing IN ('yes', 'maybe', 'no'));
ALTER TABLE attempts ADD COLUMN sent_sha256 TEXT;
UPDATE attempts SET request = id, billing = {_BILLING_OF_1};
{_INDEX}
{_OUTCOMES}
UPDATE meta SET value = '2' WHERE key = 'schema_version';
COMMIT;
"""  # noqa: S608
# For one connection, and without writing: names are looked up among what is temporary first.
_SEEN_FROM_1 = f"""
CREATE TEMP VIEW attempts AS
SELECT *, id AS request, 1 AS sent, {_BILLING_OF_1} AS billing, NULL AS sent_sha256 FROM main.attempts;
{_OUTCOMES.replace("CREATE VIEW", "CREATE TEMP VIEW")}
"""  # noqa: S608


def prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Make the tables of a new store, or bring an earlier version's up to date: all of it or, after a kill, nothing."""
    if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,):
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    if version_of(path, connection) == "1":
        try:
            connection.executescript(_FROM_1)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.rollback()
            raise


def see_as_current(path: Path, connection: sqlite3.Connection) -> None:
    """Let a connection that only reads see a store of an earlier version as one of this."""
    if version_of(path, connection, does=_READS) == "1":
        connection.executescript(_SEEN_FROM_1)


def version_of(path: Path, connection: sqlite3.Connection, *, does: str = _WRITES) -> str:
    """The version of a store. Raises ApibenchError where it is no store of apibench, or of a version that is not known."""
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        for table in ("attempts", "responses", "images"):
            connection.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608 - the three names above
    except sqlite3.DatabaseError as error:
        raise ApibenchError(f"{path}: not a response store of apibench ({error})") from error
    if row is None or row[0] not in READABLE:
        found = "none" if row is None else f"{row[0]!s:.20}"
        raise ApibenchError(f"{path}: a store of schema version {found}; this apibench {does}")
    return str(row[0])
