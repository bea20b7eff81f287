"""AWS Rekognition: ``DetectLabels`` through boto3.

https://docs.aws.amazon.com/rekognition/latest/APIReference/API_DetectLabels.html. Credentials come from boto3's own chain
(environment, profile, instance role). botocore's retries are switched off (``total_max_attempts=1``): the engine alone
retries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from apibench.query.contract import (
    Answer,
    EncodedImage,
    ErrorKind,
    ImageLimits,
    Label,
    Outcome,
    Parsed,
    ProviderError,
    ProviderInfo,
    ProviderOptions,
    WireKind,
)
from apibench_adapters.common import (
    UNREADABLE,
    Call,
    Settings,
    check_endpoint,
    items,
    kind_of_status,
    merged,
    real,
    redact,
    redact_body,
    score,
    seconds,
    text,
    unreadable,
    whole,
)
from apibench_adapters.deadline import bound_boto, has_left, within

if TYPE_CHECKING:
    from mypy_boto3_rekognition import RekognitionClient

INFO = ProviderInfo(
    name="aws",
    title="AWS Rekognition",
    hosts=(
        r"rekognition(-fips)?\.[a-z0-9-]+\.(amazonaws\.com|amazonaws\.com\.cn|api\.aws)",
        r"vpce-[a-z0-9-]+\.rekognition\.[a-z0-9-]+\.vpce\.amazonaws\.com",
    ),
    rate_per_second=5.0,  # the documented default depends on the region; this one is not verified
    rate_verified=False,
    # https://docs.aws.amazon.com/rekognition/latest/dg/limits.html: 80 to 10,000 pixels a side; the bytes are the service model's
    # (botocore's service-2.json, ImageBlob), which says 5 MB exactly.
    limits=ImageLimits(max_bytes=5_242_880, min_side=80, max_side=10_000),
    taps=True,
)
OPERATION = "/DetectLabels"

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

NO_CREDENTIALS = "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class AwsAdapter:
    """What the entry point ``aws`` names."""

    info = INFO

    def settings(self, options: ProviderOptions) -> Settings:
        chosen = merged(options, DEFAULTS, INFO.name)
        return {
            "MaxLabels": whole("MaxLabels", chosen["MaxLabels"], 1, 1000),
            "MinConfidence": real("MinConfidence", chosen["MinConfidence"], 0, 100),
        }

    def endpoint(self, options: ProviderOptions) -> str | None:
        variables = ("AWS_ENDPOINT_URL_REKOGNITION", "AWS_ENDPOINT_URL")
        return options.endpoint or next(filter(None, map(os.environ.get, variables)), None)

    def wire(self, options: ProviderOptions) -> WireKind:  # noqa: ARG002 - others have a choice
        return WireKind.HTTP

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
            tuple(_label(entry) for entry in items(body["Labels"], "Labels")),
            None if version is None else text(version, "LabelModelVersion"),
        )
    except UNREADABLE as error:
        raise unreadable(raw, error) from error


def _label(entry: Any) -> Label:
    parents = items(entry["Parents"], "Parents") if entry.get("Parents") is not None else ()
    return Label(
        text(entry["Name"], "Name"),
        score(entry["Confidence"], "Confidence", scale=100.0),
        parents=tuple(text(parent["Name"], "Parents") for parent in parents),
    )


class AwsProvider:
    """A boto3 client. Clients are safe to share between threads."""

    def __init__(self, options: ProviderOptions, settings: Settings) -> None:
        self.info = INFO
        self.settings = settings
        self._call = Call()
        self._tap = options.tap
        self._timeout = options.timeout
        self._client = self._connect(options)
        bound_boto(self._client)
        # The body exactly as received: boto3 hands out only what it parsed, and that is not what was paid for.
        self._client.meta.events.register("before-parse.rekognition.DetectLabels", self._keep)

    def _connect(self, options: ProviderOptions) -> RekognitionClient:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        check_endpoint(options.endpoint, emulated=options.emulated)
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
        check_endpoint(client.meta.endpoint_url, emulated=options.emulated)  # one of the user's own configuration
        return client

    @property
    def host(self) -> str:
        return urlsplit(self._client.meta.endpoint_url).hostname or ""

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        return [self._one(image) for image in images]

    def _one(self, image: EncodedImage) -> Outcome:
        self._call.forget()
        failure: Exception | None = None
        try:
            with within(self._timeout):
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
        self._tap(self._call.exchange(OPERATION, headers))


def _from_reply(error: Exception | None, call: Call) -> ProviderError:
    """A reply that is no 200. What the service itself reported is certain; a gateway's 5xx says nothing of what is behind it."""
    reported = getattr(error, "response", {}).get("Error", {})
    code, message = str(reported.get("Code") or "Unknown"), str(reported.get("Message") or "")
    return ProviderError(
        next((kind for kind, codes in _KINDS.items() if code in codes), kind_of_status(call.status)),
        redact(f"{code}: {message}" if message else f"{code} (HTTP {call.status})"),
        code=redact(code),
        status=call.status,
        retry_after=seconds(call.retry_after),
        raw=redact_body(call.raw or b""),
        uncertain=call.status >= 500 and (code == "Unknown" or code.isdecimal()),
    )


def _from_sdk(error: Exception) -> ProviderError:
    """No reply. Uncertain where the request may have reached the service, not sent where it cannot have left this machine."""
    from botocore import exceptions as sdk

    if isinstance(error, sdk.NoRegionError):
        message = "no AWS region; set AWS_REGION or AWS_DEFAULT_REGION, to us-east-1 for instance"
        return ProviderError(ErrorKind.CREDENTIALS, message, sent=False)
    if isinstance(error, sdk.NoCredentialsError):
        return ProviderError(ErrorKind.CREDENTIALS, NO_CREDENTIALS, sent=False)
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
        return ProviderError(ErrorKind.CREDENTIALS, message, sent=False)
    if isinstance(error, sdk.ParamValidationError):
        return ProviderError(ErrorKind.REJECTED, message, sent=False)
    if isinstance(error, sdk.ConnectionError | sdk.HTTPClientError | OSError):
        sent = has_left()
        if sent is None:  # no connection was asked for: refused, unresolved or never connected, or not whom we trust?
            never = isinstance(error, sdk.EndpointConnectionError | sdk.ConnectTimeoutError | sdk.ProxyConnectionError)
            sent = not (never or "CERTIFICATE_VERIFY_FAILED" in str(error))
        return ProviderError(ErrorKind.TRANSIENT, message, uncertain=sent, sent=sent)
    return ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)
