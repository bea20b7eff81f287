"""The last look at what is published: does anything in it look like a key? Then nothing is written, and it is said where.

The redactor (:mod:`apibench.query.redact`) has taken out of errors what it knows, before they were stored and once more;
answers are kept as they were paid for. What both leave is looked through here for the forms that keys have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from apibench.query.redact import LEAST_IN_ANSWERS, of_environment

# The forms are those of the vendors' documentation and of public secret scanners. None is spelt out as an example here: this
# file is scanned too.
_VALUE = r"[^\s\"'*\[]{8,}"  # not what the redactor puts in a key's place
_FORMS = {
    "an AWS key id": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "an AWS secret key": r"(?i:aws\w{0,20}secret\w{0,20}[\"']?\s*[:=]\s*[\"']?)[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Google access token": r"\bya29\.[0-9A-Za-z._-]{20,}",
    "an Azure key": r"\b[0-9A-Za-z]{40,}JQQJ99[0-9A-Za-z]{10,}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an Authorization header": r"(?i:authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|key|aws4-hmac-sha256)\s+)"
    + _VALUE,
    "a header with a key": r"(?i:(?:subscription-key|security-token|goog-api-key|x-api-key)[\"']?\s*[:=]\s*[\"']?)"
    + _VALUE,
    "a bearer token": r"(?i:\bbearer\s+)[0-9A-Za-z._~+/-]{20,}",
    "a password in an address": r"://[^/@\s:\"'*]+:[^/@\s\"'*]+@",
}
_PATTERNS = {what: re.compile(form) for what, form in _FORMS.items()}
_ANY = re.compile("|".join(f"(?:{form})" for form in _FORMS.values()))  # most texts have none, which one look tells
# Azure's older keys and Clarifai's tokens; Clarifai's ids of models, requests and answers are of the same form.
_HEX = re.compile(r"(?<![0-9A-Fa-f])[0-9a-fA-F]{32}(?![0-9A-Fa-f])")
_RUN = re.compile(r"[0-9a-fA-F]{32,128}")


def ids(text: str) -> Iterator[str]:
    """All of 32 hexadecimal digits that a text may mean: in a binary message the byte beside one may be a digit too."""
    for run in _RUN.findall(text):
        yield from (run[start : start + 32] for start in range(len(run) - 31))


class Scanner:
    """Looks for keys. ``ids``: what is of the form of a key and is none (32 hexadecimal digits that name a model)."""

    def __init__(self, ids: Collection[str] = ()) -> None:
        self._ids = frozenset(ids)
        self._known = sorted(of_environment(least=LEAST_IN_ANSWERS))

    def find(self, text: str, *, answer: bool = False) -> str | None:
        """What in a text looks like a key, in words that do not tell it; None where nothing does.

        ``answer``: of a vendor's answer, or a photograph's name; what is of 32 hexadecimal digits there is an id or a hash.
        """
        for known in self._known:
            if known in text:
                return f"a key of this process' environment ({len(known)} characters)"
        if _ANY.search(text):
            for what, pattern in _PATTERNS.items():
                if found := pattern.search(text):
                    return f"what looks like {what} ({found[0][:4]}…, {len(found[0])} characters)"
        for found in () if answer else _HEX.finditer(text):
            if found[0] not in self._ids:
                return f"what looks like a key of 32 hexadecimal digits ({found[0][:4]}…)"
        return None
