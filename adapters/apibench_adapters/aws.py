"""AWS Rekognition: ``DetectLabels`` through boto3.

https://docs.aws.amazon.com/rekognition/latest/APIReference/API_DetectLabels.html. Credentials come from boto3's own chain
(environment, profile, instance role). botocore's retries are switched off (``total_max_attempts=1``): the engine alone
retries.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from apibench.query.contract import (
    Answer,
    EncodedImage,
    ErrorKind,
    Label,
    Outcome,
    Parsed,
    ProviderError,
    ProviderInfo,
    ProviderOptions,
)

if TYPE_CHECKING:
    from mypy_boto3_rekognition import RekognitionClient

Settings = Mapping[str, str | int | float | bool]

INFO = ProviderInfo(
    name="aws",
    title="AWS Rekognition",
    hosts=(
        r"rekognition(-fips)?\.[a-z0-9-]+\.(amazonaws\.com|amazonaws\.com\.cn|api\.aws)",
        r"vpce-[a-z0-9-]+\.rekognition\.[a-z0-9-]+\.vpce\.amazonaws\.com",
    ),
    rate_per_second=5.0,  # the documented default depends on the region; this one is not verified
)

# MinConfidence is explicit: the API's default of 55 would hide how far a label fell.
DEFAULTS: dict[str, int | float] = {"MaxLabels": 10, "MinConfidence": 1.0}

_KINDS = {
    ErrorKind.THROTTLED: {
        "ThrottlingException",
        "Throttling",
        "ProvisionedThroughputExceededException",
        "TooManyRequestsException",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "SlowDown",
    },
    ErrorKind.TRANSIENT: {
        "InternalServerError",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
    },
    ErrorKind.REJECTED: {
        "InvalidImageFormatException",
        "ImageTooLargeException",
        "InvalidS3ObjectException",
        "InvalidParameterException",
        "ValidationException",
    },
    ErrorKind.CREDENTIALS: {
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "AuthFailure",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "AccessDeniedException",
        "AccessDenied",
        "NotAuthorized",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "OptInRequired",
    },
    ErrorKind.QUOTA: {"LimitExceededException", "ServiceQuotaExceededException", "SubscriptionRequiredException"},
}
# Where the code says nothing: a proxy's or a gateway's HTML page has none.
_KINDS_BY_STATUS = {
    401: ErrorKind.CREDENTIALS,
    403: ErrorKind.CREDENTIALS,
    407: ErrorKind.CREDENTIALS,
    408: ErrorKind.TRANSIENT,
    413: ErrorKind.REJECTED,
    429: ErrorKind.THROTTLED,
}


NO_CREDENTIALS = "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class AwsAdapter:
    """What the entry point ``aws`` names."""

    info = INFO

    def settings(self, options: ProviderOptions) -> Settings:
        unknown = set(options.settings) - set(DEFAULTS)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]}: no setting of aws; there are {', '.join(DEFAULTS)}")
        merged = {**DEFAULTS, **options.settings}
        labels, confidence = merged["MaxLabels"], merged["MinConfidence"]
        if not isinstance(labels, int) or isinstance(labels, bool) or not 1 <= labels <= 1000:
            raise ValueError(f"MaxLabels: {labels!r} is not a whole number from 1 to 1000")
        if not isinstance(confidence, int | float) or isinstance(confidence, bool) or not 0 <= confidence <= 100:
            raise ValueError(f"MinConfidence: {confidence!r} is not a number from 0 to 100")
        return {"MaxLabels": labels, "MinConfidence": float(confidence)}

    def create(self, options: ProviderOptions) -> AwsProvider:
        return AwsProvider(options, self.settings(options))

    def parse(self, raw: bytes) -> Parsed:
        return parse(raw)


adapter = AwsAdapter()


def parse(raw: bytes) -> Parsed:
    """Read a DetectLabels response. boto3 takes a malformed one for an answer without labels, so the body is read here."""
    try:
        body = json.loads(raw)
        version = body.get("LabelModelVersion")
        return Parsed(
            tuple(_label(entry) for entry in _list(body["Labels"], "Labels")),
            None if version is None else _text(version, "LabelModelVersion"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise ProviderError(
            ErrorKind.PROTOCOL,
            f"a reply without readable labels ({reason})",
            status=200,
            raw=_redact_body(raw),
            uncertain=True,
        ) from error


def _label(entry: Any) -> Label:
    confidence = entry["Confidence"]
    if not isinstance(confidence, int | float) or isinstance(confidence, bool):
        raise TypeError("a label without a number as Confidence")
    # Confidences are float32 on a scale of 0 to 100, so the top may be a rounding error above it. NaN is in no range.
    if not -1e-3 <= confidence <= 100.001:
        raise ValueError("a Confidence outside 0 to 100")
    parents = _list(entry["Parents"], "Parents") if entry.get("Parents") is not None else ()
    return Label(
        _text(entry["Name"], "Name"),
        min(max(confidence / 100.0, 0.0), 1.0),
        parents=tuple(_text(parent["Name"], "Parents") for parent in parents),
    )


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name} is not a list")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} is not a name")
    value.encode()  # half a surrogate pair is no text: no file and no database takes it
    return value


class _Call(threading.local):
    """What came over the wire for the call that this thread makes: nothing yet, or a status, headers and a body."""

    status: int = 0
    raw: bytes | None = None
    request_id: str | None = None
    retry_after: str | None = None


class AwsProvider:
    """A boto3 client. Clients are safe to share between threads."""

    def __init__(self, options: ProviderOptions, settings: Settings) -> None:
        self.info = INFO
        self.settings = settings
        self._call = _Call()
        self._client = self._connect(options)
        # The body exactly as received: boto3 hands out only what it parsed, and that is not what was paid for.
        self._client.meta.events.register("before-parse.rekognition.DetectLabels", self._keep)

    def _connect(self, options: ProviderOptions) -> RekognitionClient:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config: dict[str, Any] = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": options.timeout,
            "read_timeout": options.timeout,
            "max_pool_connections": options.concurrency,
            "tcp_keepalive": True,
        }
        where: dict[str, Any] = {"endpoint_url": options.endpoint} if options.endpoint else {}
        variables = None
        if options.emulated:
            if not _is_loopback(options.endpoint):
                raise ProviderError(
                    ErrorKind.CREDENTIALS, "emulated calls go to an emulator on this machine, never elsewhere"
                )
            # Nothing of the user's environment or files may take part: no profile, no endpoint, no proxy, no real key.
            known = botocore.session.Session.SESSION_VARIABLES
            variables = {name: (None, None, default, convert) for name, (_, _, default, convert) in known.items()}
            variables |= dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
            config |= {"proxies": {}, "ignore_configured_endpoint_urls": True}
            where |= {
                "region_name": "us-east-1",
                "aws_access_key_id": "EMULATED",
                "aws_secret_access_key": "emulated",
                "aws_session_token": "emulated",
            }
        core = botocore.session.Session(session_vars=variables)
        try:
            session = boto3.session.Session(botocore_session=core)
            # Before the region, which a fresh machine lacks too: keys are what a user has to get first.
            if not options.emulated and session.get_credentials() is None:
                raise ProviderError(ErrorKind.CREDENTIALS, NO_CREDENTIALS)
            # AWS's newer SDKs read AWS_REGION, boto3 only AWS_DEFAULT_REGION.
            where.setdefault("region_name", session.region_name or os.environ.get("AWS_REGION"))
            client: RekognitionClient = session.client("rekognition", config=Config(**config), **where)
        except (BotoCoreError, ValueError) as error:
            raise _from_sdk(error) from None
        if urlsplit(client.meta.endpoint_url).scheme != "https" and not options.emulated:
            host = urlsplit(client.meta.endpoint_url).hostname
            message = f"{host}: real keys are not sent over plain http; use an https endpoint, or --emulated"
            raise ProviderError(ErrorKind.CREDENTIALS, message)
        return client

    @property
    def host(self) -> str:
        return urlsplit(self._client.meta.endpoint_url).hostname or ""

    def check(self) -> None:
        """Nothing is left to check: a client is not made without credentials, nor for a host that must not have them."""

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        return [self._one(image) for image in images]

    def _one(self, image: EncodedImage) -> Outcome:
        self._call.__dict__.clear()
        failure: Exception | None = None
        try:
            self._client.detect_labels(Image={"Bytes": image.data}, **self.settings)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - its parser raises what it likes on a strange body
            failure = error
        call = self._call
        if call.raw is None:
            return _from_sdk(failure or RuntimeError("no body"))
        if call.status != 200:
            return _from_reply(failure, call)
        try:
            # Whatever boto3 made of it: a body that can be read is an answer.
            return Answer(call.raw, parse(call.raw), call.request_id)
        except ProviderError as error:
            return error

    def close(self) -> None:
        self._client.close()

    def _keep(self, response_dict: dict[str, Any], **_: Any) -> None:
        headers = response_dict.get("headers") or {}
        self._call.status = int(response_dict.get("status_code") or 0)
        self._call.request_id = headers.get("x-amzn-requestid")
        self._call.retry_after = headers.get("retry-after")
        self._call.raw = bytes(response_dict.get("body") or b"")


def _from_reply(error: Exception | None, call: _Call) -> ProviderError:
    """A reply that is no 200. What the service itself reported is certain; a gateway's 5xx says nothing of what is behind it."""
    reported = getattr(error, "response", {}).get("Error", {})
    code, text = str(reported.get("Code") or "Unknown"), str(reported.get("Message") or "")
    kind = next((kind for kind, codes in _KINDS.items() if code in codes), _KINDS_BY_STATUS.get(call.status))
    if kind is None:
        kind = ErrorKind.TRANSIENT if call.status >= 500 else ErrorKind.PROTOCOL
    return ProviderError(
        kind,
        redact(f"{code}: {text}" if text else f"{code} (HTTP {call.status})"),
        code=redact(code),
        status=call.status,
        retry_after=_seconds(call.retry_after),
        raw=_redact_body(call.raw or b""),
        uncertain=call.status >= 500 and (code == "Unknown" or code.isdecimal()),
    )


def _from_sdk(error: Exception) -> ProviderError:
    """No reply. Uncertain where the request may have reached the service."""
    from botocore import exceptions as sdk

    if isinstance(error, sdk.NoRegionError):
        message = "no AWS region; set AWS_REGION or AWS_DEFAULT_REGION, to us-east-1 for instance"
        return ProviderError(ErrorKind.CREDENTIALS, message)
    if isinstance(error, sdk.NoCredentialsError):
        return ProviderError(ErrorKind.CREDENTIALS, NO_CREDENTIALS)
    message = redact(f"{type(error).__name__}: {error}")
    credentials = (
        sdk.PartialCredentialsError,
        sdk.CredentialRetrievalError,
        sdk.ProfileNotFound,
        sdk.ConfigParseError,
        sdk.InvalidConfigError,
        sdk.InvalidRegionError,
        sdk.TokenRetrievalError,
        sdk.SSOError,
        sdk.LoginError,
    )
    if isinstance(error, credentials):
        return ProviderError(ErrorKind.CREDENTIALS, message)
    if isinstance(error, sdk.ParamValidationError):
        return ProviderError(ErrorKind.REJECTED, message)
    # Refused, unresolved or never connected: nothing was processed.
    if isinstance(error, sdk.ConnectionError):
        return ProviderError(ErrorKind.TRANSIENT, message)
    if isinstance(error, sdk.HTTPClientError | OSError):
        return ProviderError(ErrorKind.TRANSIENT, message, uncertain=True)
    return ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)


def _is_loopback(endpoint: str | None) -> bool:
    host = urlsplit(endpoint or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(text: str | None) -> float | None:
    """A Retry-After header in seconds. Dates are not used by AWS and are left out."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


_SECRETS = re.compile(
    r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{8,}\b"  # key ids
    r"|(?i:(?:credential|signature|security-token|authorization|secret\w*|token)\s*[=:]\s*)[^\s,;&]+"
    r"|(?<=://)[^/@\s]+(?=@)"  # user and password of a proxy's or an endpoint's address
    r"|[A-Za-z0-9/+=]{40,}"  # secrets, session tokens, signatures, and image bytes
)


def redact(text: str) -> str:
    """A message without anything that looks like a key, a signature or encoded bytes; one line, at most 300 characters."""
    clean = "".join(c if c.isprintable() else " " for c in _SECRETS.sub("[removed]", text))
    return " ".join(clean.split())[:300]


def _redact_body(raw: bytes) -> bytes:
    """An error's body as received, unless it repeats a key: AWS answers a wrong signature with the headers it signed."""
    text = raw.decode("utf-8", "replace").replace("\\/", "/")
    return _SECRETS.sub("[removed]", text).encode() if _SECRETS.search(text) else raw
