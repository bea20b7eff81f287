"""The one redactor: no key, token or signature is ever stored, logged, recorded or printed.

Whatever an SDK says passes through it: a :class:`~apibench.query.contract.ProviderError` redacts itself as it is made, and so
does an :class:`~apibench.query.contract.Answer`, whoever wrote the adapter. Three things are taken out: the secrets that an
adapter names, those of this process' environment (the values of variables that are named like one, so that a new provider's key
is known too), and what looks like a key, a signature or encoded bytes. Imports nothing but the standard library.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

REMOVED = "[removed]"
MOST_KEPT = 262_144  # of an error's body: what is longer is no error of the vendor's
LEAST = 8  # shorter values of the environment are no keys, and would be found everywhere
LEAST_IN_ANSWERS = 16  # what was paid for is changed for nothing but a key, and no vendor's is shorter

_NAMED_LIKE_ONE = re.compile(
    r"(?:^|_)(?:(?:api|access|auth|secret|subscription)_?)?(?:key|secret|token|pat|password|passwd)(?:_id)?$", re.I
)
_LOOKS_LIKE_ONE = re.compile(
    r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{8,}\b"  # AWS key ids
    r"|\bAIza[0-9A-Za-z_-]{20,}|\bya29\.[0-9A-Za-z._-]+"  # Google API keys and access tokens
    r"|\b[0-9a-fA-F]{32,}\b"  # Azure's keys, Clarifai's personal access tokens
    r"|(?i:(?:credential|signature|security-token|authorization|secret\w{0,40}|token|(?:api|subscription)[-_]?key)\s*[=:]\s*)"
    r"(?:(?i:bearer|key|basic)\s+)?[^\s,;&]+"
    r"|(?i:secret\w{0,40}|token|password|(?:api|access|subscription)[-_]?key)[\"']\s*[=:]\s*[\"'][^\"']*"  # of JSON, or a dict
    r"|\b(?i:bearer|key)\s+[0-9A-Za-z._~+/-]{16,}"
    r"|(?<=://)[^/@\s]+(?=@)"  # user and password of a proxy's or an endpoint's address
    r"|[A-Za-z0-9/+=]{40,}"  # secrets, session tokens, signatures, and image bytes
)


def redact(message: str, *secrets: str, most: int = 300) -> str:
    """A message without ``secrets``, nor anything else that is or looks like one; one line of at most ``most`` characters."""
    clean = "".join(c if c.isprintable() else " " for c in _without(message, secrets, 4_000))
    return " ".join(clean.split())[:most]


def redact_body(raw: bytes, *secrets: str) -> bytes:
    """An error's body as received, unless it repeats a key (AWS answers a wrong signature with the headers it signed).

    Of a body that is longer than :data:`MOST_KEPT`, only the beginning.
    """
    body = raw.decode("utf-8", "replace").replace("\\/", "/")
    clean = _without(body, secrets, MOST_KEPT)
    return clean.encode() if clean != body else raw


def mask(data: bytes, *secrets: str, least: int = LEAST) -> bytes:
    """Bytes with an asterisk for each byte of a known secret: of the same length, so that a message can still be read as one.

    ``least``: how long a value of the environment has to be to count as a secret.
    """
    for form in _forms(secrets, least):
        found = form.encode("utf-8", "surrogateescape")
        if found in data:
            data = data.replace(found, b"*" * len(found))
    return data


def mask_text(text: str, *secrets: str, least: int = LEAST) -> str:
    """The same for text."""
    for form in _forms(secrets, least):
        text = text.replace(form, "*" * len(form))
    return text


def of_environment(environment: Mapping[str, str] | None = None, least: int = LEAST) -> set[str]:
    """The values of this process' variables that are named like a secret; a path that is there is none."""
    environment = os.environ if environment is None else environment
    values = {environment.get(name, "").strip() for name in environment if _is_named_like_one(name)}
    return {value for value in values if len(value) >= least and not _is_path(value)}


@lru_cache(maxsize=4096)  # asked twice an answer, of every variable there is
def _is_named_like_one(name: str) -> bool:
    return _NAMED_LIKE_ONE.search(name) is not None


def _is_path(value: str) -> bool:
    try:
        return value[0] in "/~." and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _forms(secrets: tuple[str, ...], least: int) -> list[str]:
    """Every known secret as it may stand in a header, an address or a body; the longest first, since one may hold another."""
    forms: set[str] = set()
    for secret in of_environment(least=least).union(secrets) - {""}:
        encoded = secret.encode("utf-8", "surrogateescape")
        forms |= {secret, quote(encoded, safe=""), quote(encoded)}
        if len(secret) >= LEAST:
            forms.add(base64.b64encode(encoded).decode().rstrip("="))
    return sorted(forms, key=lambda form: (-len(form), form))


def _without(message: str, secrets: tuple[str, ...], most: int) -> str:
    for form in _forms(secrets, LEAST):
        message = message.replace(form, REMOVED)
    if len(message) > most:
        # Cut between words, so that no half of a key is left that looks like none.
        kept = message[:most]
        half = "" if kept[-1].isspace() else kept.rsplit(None, 1)[-1]
        message = kept.removesuffix(half) + " [cut off]"
    return _LOOKS_LIKE_ONE.sub(REMOVED, message)
