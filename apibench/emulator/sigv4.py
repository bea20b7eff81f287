"""AWS's signature, version 4, as the receiving side checks it: signed again with the secret, by botocore's own signer.

Sources: the page "Signature Version 4" of AWS's reference; messages as users of AWS's JSON services have reported them in public.
Not verified against the live service: the order of the checks. Of dates only ``X-Amz-Date`` is read, which every SDK sends.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apibench.emulator.wire import Request
from apibench.errors import ApibenchError

SERVICE = "rekognition"
SKEW = timedelta(minutes=5)
_STAMP = "%Y%m%dT%H%M%SZ"
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
    "signing method. Consult the service documentation for details."
)


@dataclass(frozen=True)
class Signed:
    """An ``Authorization`` header, taken apart."""

    key_id: str
    date: str  # "20260131"
    region: str
    service: str
    headers: tuple[str, ...]  # names of those that are signed, in lower case
    signature: str

    @classmethod
    def of(cls, credential: str, signed_headers: str, signature: str) -> Signed | None:
        """From the header's three fields; None where the credential is no signing scope."""
        scope = re.fullmatch(r"([^/\s]+)/(\d{8})/([^/\s]+)/([^/\s]+)/aws4_request", credential)
        if scope is None:
            return None
        headers = tuple(name.lower() for name in signed_headers.split(";") if name)
        return cls(scope[1], scope[2], scope[3], scope[4], headers, signature)


def require() -> None:
    """Raises ApibenchError where botocore is not installed."""
    if importlib.util.find_spec("botocore") is None:
        raise ApibenchError(
            "emulator: to check AWS signatures it needs botocore; apibench's extra 'aws' brings it: pip install '.[aws]'"
        )


def flaw(request: Request, signed: Signed, secret: str, now: datetime | None = None) -> str | None:
    """What is wrong with a signature, in the service's words; None if it is the right one. No key is in the words."""
    stamp = request.headers.get("x-amz-date", "")
    try:
        then = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return "Authorization header requires existence of a valid 'X-Amz-Date' header."
    if signed.service != SERVICE:
        return f"Credential should be scoped to correct service: '{SERVICE}'."
    if signed.date != stamp[:8]:
        return (
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{signed.date}' != '{stamp[:8]}', from '{stamp}'."
        )
    if missing := [name for name in ("host", "x-amz-date") if name not in signed.headers]:
        return f"'{missing[0]}' must be a 'SignedHeader' in the AWS Authorization."
    now = now or datetime.now(UTC)
    if then < now - SKEW:
        return f"Signature expired: {stamp} is now earlier than {now - SKEW:{_STAMP}} ({now:{_STAMP}} - 5 min.)"
    if then > now + SKEW:
        return f"Signature not yet current: {stamp} is still later than {now + SKEW:{_STAMP}} ({now:{_STAMP}} + 5 min.)"
    return None if hmac.compare_digest(_signature(request, signed, secret), signed.signature.encode()) else _MISMATCH


def _signature(request: Request, signed: Signed, secret: str) -> bytes:
    """What the signature should be. What is signed is the body as received, whatever a header says its hash is."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    headers = {name: request.headers.get(name, "") for name in signed.headers}
    if "x-amz-content-sha256" in headers:
        headers["x-amz-content-sha256"] = hashlib.sha256(request.body).hexdigest()
    # By http the signer always hashes the body.
    url = f"http://{request.headers.get('host', '')}{request.path}"
    again = AWSRequest(method=request.method, url=url, data=request.body, headers=headers)
    again.context["timestamp"] = request.headers["x-amz-date"]
    signer = SigV4Auth(Credentials(signed.key_id, secret), signed.service, signed.region)
    text = signer.string_to_sign(again, signer.canonical_request(again))
    return str(signer.signature(text, again)).encode()
