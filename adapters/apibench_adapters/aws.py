"""AWS Rekognition: ``DetectLabels`` through boto3.

https://docs.aws.amazon.com/rekognition/latest/APIReference/API_DetectLabels.html. Credentials come from boto3's own chain
(environment, profile, instance role). botocore's retries are switched off (``total_max_attempts=1``): the engine alone
retries.
"""

from __future__ import annotations

import json
import math
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
    hosts=("amazonaws.com", "amazonaws.com.cn"),
    rate_per_second=5.0,  # the documented default depends on the region; this one is not verified
    max_bytes=5_242_880,
    min_side=80,
    max_side=10_000,
)

# MinConfidence is explicit: the API's default of 55 would hide how far a label fell.
DEFAULTS: dict[str, int | float] = {"MaxLabels": 10, "MinConfidence": 1.0}

_KINDS = {
    ErrorKind.THROTTLED: {
        "ThrottlingException",
        "Throttling",
        "ProvisionedThroughputExceededException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "SlowDown",
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
        if not isinstance(version, str | None):
            raise TypeError("LabelModelVersion is not a string")
        return Parsed(tuple(_label(entry) for entry in body["Labels"]), version)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise ProviderError(
            ErrorKind.PROTOCOL,
            f"a reply without readable labels ({reason})",
            status=200,
            raw=raw,
            uncertain=True,
        ) from error


def _label(entry: Any) -> Label:
    name, confidence = entry["Name"], entry["Confidence"]
    if not isinstance(name, str) or not isinstance(confidence, int | float) or isinstance(confidence, bool):
        raise TypeError("a label without a name or a number as confidence")
    # Confidences are float32 on a scale of 0 to 100, so the top may be a rounding error above it.
    if not (math.isfinite(confidence) and -1e-3 <= confidence <= 100.001):
        raise ValueError(f"a confidence of {confidence}")
    parents = tuple(parent["Name"] for parent in entry.get("Parents") or ())
    if not all(isinstance(parent, str) for parent in parents):
        raise TypeError("a parent without a name")
    return Label(name, min(max(confidence / 100.0, 0.0), 1.0), parents=parents)


class AwsProvider:
    """A boto3 client. Clients are safe to share between threads."""

    def __init__(self, options: ProviderOptions, settings: Settings) -> None:
        self.info = INFO
        self.settings = settings
        self._emulated = options.emulated
        self._call = threading.local()
        self._session, self._client = self._connect(options)
        # The body exactly as received: boto3 hands out only what it parsed, and that is not what was paid for.
        self._client.meta.events.register("before-parse.rekognition.DetectLabels", self._keep)

    def _connect(self, options: ProviderOptions) -> tuple[Any, RekognitionClient]:
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
        core = botocore.session.Session()
        if options.emulated:
            # Nothing of the user's environment may take part: no profile, no endpoint, no proxy, no real key.
            core.set_config_variable("profile", None)
            core.set_config_variable("config_file", "")
            core.set_config_variable("credentials_file", "")
            core.set_config_variable("ca_bundle", None)
            core.session_var_map["profile"] = (None, None, None, None)
            config |= {"proxies": {}, "ignore_configured_endpoint_urls": True}
            where |= {
                "region_name": "us-east-1",
                "aws_access_key_id": "EMULATED",
                "aws_secret_access_key": "emulated",
                "aws_session_token": "emulated",
            }
        try:
            session = boto3.session.Session(botocore_session=core)
            client: RekognitionClient = session.client("rekognition", config=Config(**config), **where)
        except (BotoCoreError, ValueError) as error:
            raise _from_sdk(error) from None
        return session, client

    @property
    def host(self) -> str:
        return urlsplit(self._client.meta.endpoint_url).hostname or ""

    def check(self) -> None:
        from botocore.exceptions import BotoCoreError

        if self._emulated:
            return
        if urlsplit(self._client.meta.endpoint_url).scheme != "https":
            raise ProviderError(
                ErrorKind.CREDENTIALS,
                f"{self.host}: real keys are not sent over plain http; use an https endpoint, or --emulated",
            )
        try:
            found = self._session.get_credentials()
        except BotoCoreError as error:
            raise _from_sdk(error) from None
        if found is None:
            raise ProviderError(
                ErrorKind.CREDENTIALS,
                "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        return [self._one(image) for image in images]

    def _one(self, image: EncodedImage) -> Outcome:
        from botocore.exceptions import ClientError

        self._call.raw = None
        try:
            reply: Any = self._client.detect_labels(Image={"Bytes": image.data}, **self.settings)  # type: ignore[arg-type]
            raw: bytes = self._call.raw or b""
            return Answer(raw, parse(raw), reply.get("ResponseMetadata", {}).get("RequestId"))
        except ProviderError as error:
            return error
        except ClientError as error:
            return _from_reply(error, self._call.raw)
        except Exception as error:  # noqa: BLE001 - boto3's parser raises TypeError, RecursionError, ... for odd bodies
            return _from_sdk(error, self._call.raw)

    def close(self) -> None:
        self._client.close()

    def _keep(self, response_dict: dict[str, Any], **_: Any) -> None:
        self._call.raw = bytes(response_dict.get("body") or b"")


def _from_reply(error: Any, raw: bytes | None) -> ProviderError:
    """An error that the service reported: certain, and not a label."""
    code = str(error.response.get("Error", {}).get("Code") or "Unknown")
    meta = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode") or 0)
    text = str(error.response.get("Error", {}).get("Message") or "")
    after = _seconds(meta.get("HTTPHeaders", {}).get("retry-after"))
    kind = next((kind for kind, codes in _KINDS.items() if code in codes), None)
    if kind is None:
        kind = {429: ErrorKind.THROTTLED, 401: ErrorKind.CREDENTIALS, 403: ErrorKind.CREDENTIALS}.get(status)
    if kind is None:
        kind = ErrorKind.TRANSIENT if status >= 500 else ErrorKind.PROTOCOL
    message = redact(f"{code}: {text}" if text else f"{code} (HTTP {status})")
    return ProviderError(kind, message, code=code, status=status or None, retry_after=after, raw=raw)


def _from_sdk(error: Exception, raw: bytes | None = None) -> ProviderError:
    """An error of the SDK itself. Uncertain where the request may have reached the service."""
    from botocore import exceptions as sdk

    name = type(error).__name__
    message = redact(f"{name}: {error}")
    if isinstance(error, sdk.NoRegionError):
        return ProviderError(ErrorKind.CREDENTIALS, "no AWS region; set AWS_DEFAULT_REGION, to us-east-1 for instance")
    credentials = (
        sdk.NoCredentialsError,
        sdk.PartialCredentialsError,
        sdk.CredentialRetrievalError,
        sdk.ProfileNotFound,
    )
    tokens = (sdk.TokenRetrievalError, sdk.UnauthorizedSSOTokenError, sdk.SSOError, sdk.InvalidConfigError)
    if isinstance(error, credentials + tokens):
        return ProviderError(ErrorKind.CREDENTIALS, message)
    if isinstance(error, sdk.ParamValidationError):
        return ProviderError(ErrorKind.REJECTED, message)
    # Refused, unresolved or never connected: nothing was processed.
    if isinstance(error, sdk.ConnectTimeoutError | sdk.ProxyConnectionError | sdk.SSLError):
        return ProviderError(ErrorKind.TRANSIENT, message)
    if isinstance(error, sdk.EndpointConnectionError):
        return ProviderError(ErrorKind.TRANSIENT, message)
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionClosedError | OSError):
        return ProviderError(ErrorKind.TRANSIENT, message, uncertain=True)
    return ProviderError(ErrorKind.PROTOCOL, message, raw=raw, uncertain=True)


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
    r"|[A-Za-z0-9/+=]{40,}"  # secrets, session tokens, signatures, and image bytes
)


def redact(text: str) -> str:
    """A message without anything that looks like a key, a signature or encoded bytes; one line, at most 300 characters."""
    return " ".join(_SECRETS.sub("[removed]", text).split())[:300]
