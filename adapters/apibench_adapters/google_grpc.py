"""Google Cloud Vision over gRPC: the SDK's client on a channel of ours, below which is no retry. Imports the SDK."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import grpc
import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.vision_v1 import ImageAnnotatorClient
from google.cloud.vision_v1.services.image_annotator.transports import ImageAnnotatorGrpcTransport

from apibench.query.contract import ErrorKind, ProviderError, ProviderOptions
from apibench_adapters import google_errors, rpc
from apibench_adapters.common import redact


class _Authorizing(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Adds a key or a token to each call, below what of the SDK logs a call's metadata.

    It asks for a token in the thread that calls, so that a failure to get one is raised as what it is; grpc's own plugin
    would make an UNAVAILABLE of it, as if a request had been lost.
    """

    def __init__(self, credentials: Any, timeout: float) -> None:
        host = ImageAnnotatorGrpcTransport.DEFAULT_HOST
        plugin: Any = AuthMetadataPlugin
        session = requests.Session()
        google_errors.refuse_retries(session)
        self._plugin = plugin(credentials, partial(Request(session), timeout=timeout), default_host=host)
        self._url = f"https://{host}/"

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        found: list[tuple[str, str]] = []
        context = SimpleNamespace(method_name=details.method, service_url=self._url)
        self._plugin(context, lambda metadata, _: found.extend(metadata))
        # The SDK has already said which client this is; the credentials would say it again.
        added = [(name, value) for name, value in found if name != "x-goog-api-client"]
        return continuation(details._replace(metadata=(*(details.metadata or ()), *added)), request)


class GrpcConnection:
    """The SDK finds the host, unless an endpoint is given, and a client's certificate, if the user has one."""

    def __init__(self, options: ProviderOptions, credentials: Any) -> None:
        self._options = options
        self._credentials = credentials
        self._channel: rpc.KeepingChannel | None = None
        self._client: Any = ImageAnnotatorClient(
            credentials=credentials,
            transport=partial(ImageAnnotatorGrpcTransport, channel=self._connect),
            client_options={"api_endpoint": rpc.target(options.endpoint)} if options.endpoint else None,
        )

    def _connect(self, host: str, *, ssl_credentials: grpc.ChannelCredentials | None = None, **_: Any) -> grpc.Channel:
        """What the SDK calls to get a channel to the host that it found."""
        if self._options.emulated:
            channel = rpc.loopback_channel(f"http://{host}")
        else:
            channel = rpc.secure_channel(f"https://{host}", ssl_credentials)
        authorizing = _Authorizing(self._credentials, self._options.timeout)
        self._channel = rpc.KeepingChannel(grpc.intercept_channel(channel, authorizing), self._options.tap)
        return self._channel

    @property
    def host(self) -> str:
        return urlsplit(f"//{self._client.transport.host}").hostname or ""

    def ask(self, request: dict[str, Any], images: int) -> bytes | ProviderError:
        if self._channel is None:
            raise RuntimeError("the SDK asked for no channel")
        received = self._channel.received
        received.raw = None
        failure: BaseException = RuntimeError("no reply")
        try:
            self._client.batch_annotate_images(request=request, retry=None, timeout=self._options.timeout)
        except Exception as error:  # noqa: BLE001 - it raises what it likes on a strange reply
            failure = error
        # Whatever the SDK made of it: a message that came is read by ours.
        return received.raw if received.raw is not None else self._failed(failure, images)

    def _failed(self, failure: BaseException, images: int) -> ProviderError:
        secret = getattr(self._credentials, "token", None) or ""
        error: BaseException | None = failure
        while error is not None:  # the SDK raises an error of its own, or stumbles over the details of gRPC's
            if isinstance(error, GoogleAuthError):
                return google_errors.of_credentials(error, secret)
            if isinstance(error, grpc.RpcError):
                return google_errors.of_status(rpc.Status.of(error), images, secret)
            error = error.__cause__ or error.__context__
        message = redact(f"{type(failure).__name__}: {failure}", secret)
        return ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)

    def close(self) -> None:
        self._client.transport.close()
