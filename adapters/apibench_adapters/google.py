"""Google Cloud Vision v1: ``LABEL_DETECTION`` through google-cloud-vision's ``ImageAnnotatorClient.batch_annotate_images``.

https://cloud.google.com/vision/docs/reference/rest/v1/images/annotate. Up to 16 images a request, over gRPC (the SDK's own
choice) or, with ``transport=rest``, over HTTP; the answer is the same, so the transport is no part of ``settings``.

Credentials: ``GOOGLE_API_KEY`` where it is set, else Application Default Credentials (google.auth.default). The SDK's retries
are switched off (``retry=None`` a call, no second try after a 401, none of gRPC's own): the engine alone retries.

``Answer.raw`` is the body as received: JSON over HTTP (after its content coding), a serialised BatchAnnotateImagesResponse over
gRPC. Of a request with more than one image each image's raw is a response of the same form that holds its own part alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from apibench.query.contract import (
    EncodedImage,
    ErrorKind,
    ImageLimits,
    Outcome,
    Parsed,
    ProviderError,
    ProviderInfo,
    ProviderOptions,
    WireKind,
)
from apibench_adapters import google_reply
from apibench_adapters.common import Settings, check_endpoint, check_key, merged, redact, whole

INFO = ProviderInfo(
    name="google",
    title="Google Cloud Vision",
    # The two regional hosts are those of the page "Detect text in images", section "Specify the location"; the mTLS one is
    # what the SDK resolves for a client certificate.
    hosts=(r"(?:(?:us|eu)-)?vision(?:\.mtls)?\.googleapis\.com",),
    max_batch=16,
    rate_per_second=30.0,  # 1,800 requests and 1,800 images a minute: cloud.google.com/vision/quotas
    images_per_second=30.0,
    # cloud.google.com/vision/quotas, "Content limits": 20 MB a file, 10 MB a JSON request (base64 makes four bytes of three);
    # .../docs/best-practices: 75 million pixels, above which an image is scaled down. MB as for the largest that may be meant.
    # 40 MB a gRPC request is what the service's own error message says ("exceeds the limit: 41943040 bytes"), and no page.
    limits=ImageLimits(
        max_bytes=20 * 1024 * 1024, max_json=10 * 1024 * 1024, max_request=41_943_040, max_pixels=75_000_000
    ),
    taps=True,
)

# No page names an upper limit of maxResults; 50 is ours, and more than any photograph has been seen to bring.
MAX_RESULTS = 50
# As the SDK's Feature documents them, with "builtin/stable" for the vendor's default; "" leaves it to the vendor.
MODELS = ("", "builtin/stable", "builtin/latest")
TRANSPORTS = {"grpc": WireKind.GRPC, "rest": WireKind.HTTP}
DEFAULTS: dict[str, str | int] = {"maxResults": 10, "model": "", "transport": "grpc"}

UNIVERSE = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"
KEY = "GOOGLE_API_KEY"
EMULATED_KEY = "EMULATED"
SCOPES = ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/cloud-vision")
LABEL_DETECTION = 4
NO_CREDENTIALS = (
    "no Google Cloud credentials found; set GOOGLE_API_KEY, or GOOGLE_APPLICATION_CREDENTIALS, "
    "or run `gcloud auth application-default login`"
)


class GoogleAdapter:
    """What the entry point ``google`` names."""

    info = INFO

    def settings(self, options: ProviderOptions) -> Settings:
        chosen = self._chosen(options)
        if chosen["model"] not in MODELS:
            known = ", ".join(model for model in MODELS if model)
            raise ValueError(f"model: {chosen['model']!r} is not one of {known}, nor empty for the vendor's default")
        return {"maxResults": whole("maxResults", chosen["maxResults"], 1, MAX_RESULTS), "model": chosen["model"]}

    def endpoint(self, options: ProviderOptions) -> str | None:
        if options.endpoint or options.emulated:
            return options.endpoint
        universe = os.environ.get(UNIVERSE, "").strip()
        return f"https://vision.{universe}" if universe and universe != "googleapis.com" else None

    def wire(self, options: ProviderOptions) -> WireKind:
        return TRANSPORTS[self._chosen(options)["transport"]]

    def create(self, options: ProviderOptions) -> GoogleProvider:
        return GoogleProvider(options, self.settings(options), self.wire(options))

    def parse(self, raw: bytes) -> Parsed:
        return google_reply.parse(raw)

    def _chosen(self, options: ProviderOptions) -> dict[str, Any]:
        chosen = merged(options, DEFAULTS, INFO.name)
        if chosen["transport"] not in TRANSPORTS:
            raise ValueError(f"transport: {chosen['transport']!r} is not one of {', '.join(TRANSPORTS)}")
        return chosen


adapter = GoogleAdapter()
parse = google_reply.parse


class Connection(Protocol):
    """One of the SDK's transports. Both may be used from several threads."""

    @property
    def host(self) -> str: ...

    def ask(self, request: dict[str, Any], images: int) -> bytes | ProviderError:
        """The body of the reply to one request with so many images, or why there is none."""

    def close(self) -> None: ...


class GoogleProvider:
    """An ImageAnnotatorClient over one of its two transports."""

    def __init__(self, options: ProviderOptions, settings: Settings, wire: WireKind) -> None:
        self.info = INFO
        self.settings = settings
        check_endpoint(options.endpoint, emulated=options.emulated)
        with _emulated_environment() if options.emulated else _environment:
            self._connection = _connect(options, wire)

    @property
    def host(self) -> str:
        return self._connection.host

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        feature = {
            "type_": LABEL_DETECTION,
            "max_results": self.settings["maxResults"],
            "model": self.settings["model"],
        }
        request = {"requests": [{"image": {"content": image.data}, "features": [feature]} for image in images]}
        reply = self._connection.ask(request, len(images))
        if isinstance(reply, ProviderError):
            return [reply for _ in images]
        return google_reply.outcomes(reply, len(images))

    def close(self) -> None:
        self._connection.close()


def _connect(options: ProviderOptions, wire: WireKind) -> Connection:
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials = _credentials(options)
        if wire is WireKind.HTTP:
            from apibench_adapters.google_rest import RestConnection

            return RestConnection(options, credentials)
        from apibench_adapters.google_grpc import GrpcConnection

        return GrpcConnection(options, credentials)
    except (GoogleAuthError, ValueError) as error:  # a client certificate or a variable of Google's that cannot be used
        raise ProviderError(ErrorKind.CREDENTIALS, redact(f"{type(error).__name__}: {error}")) from None


def _credentials(options: ProviderOptions) -> Any:
    """A key, or what google.auth.default finds. Its look for a virtual machine's own takes seconds where there is none."""
    import google.auth.api_key
    from google.auth.exceptions import DefaultCredentialsError

    of_key: Any = google.auth.api_key.Credentials

    if options.emulated:
        return of_key(EMULATED_KEY)
    key = check_key(KEY, os.environ.get(KEY, ""))
    if key:
        return of_key(key)
    try:
        credentials, _ = google.auth.default(default_scopes=SCOPES)
    except (DefaultCredentialsError, OSError, AttributeError) as error:  # the last of a file that holds no JSON object
        nothing = "default credentials were not found" in str(error)
        message = NO_CREDENTIALS if nothing else redact(f"Google Cloud credentials: {error}")
        raise ProviderError(ErrorKind.CREDENTIALS, message) from None
    return credentials


_environment = threading.Lock()


@contextmanager
def _emulated_environment() -> Iterator[None]:
    """Nothing of the user's environment takes part while a client is made: it asks for certificates and hosts there."""
    plain = {
        "GOOGLE_API_USE_CLIENT_CERTIFICATE": "false",
        "GOOGLE_API_USE_MTLS_ENDPOINT": "never",
        UNIVERSE: "googleapis.com",
    }
    with _environment:
        users = {name: os.environ.get(name) for name in plain}
        os.environ.update(plain)
        try:
            yield
        finally:
            for name, value in users.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
