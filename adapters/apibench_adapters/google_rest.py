"""Google Cloud Vision over HTTP: the SDK's REST transport, whose session neither retries nor follows redirects.

The session is a private member of the transport (``_session``), and so is what makes it send a request again after a 401
(``_max_refresh_attempts``); there is no public way to either. Imports the SDK.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests
from google.auth.exceptions import GoogleAuthError
from google.cloud.vision_v1 import ImageAnnotatorClient
from requests.adapters import HTTPAdapter

from apibench.query.contract import ErrorKind, ProviderError, ProviderOptions
from apibench_adapters import google_errors
from apibench_adapters.common import Call, never_sent, redact
from apibench_adapters.deadline import bound_session, within

OPERATION = "/v1/images:annotate"


class RestConnection:
    """The SDK finds the host, unless an endpoint is given, and a client's certificate, if the user has one."""

    def __init__(self, options: ProviderOptions, credentials: Any) -> None:
        self._timeout = options.timeout
        self._credentials = credentials
        self._call = Call()
        self._tap = options.tap
        self._client: Any = ImageAnnotatorClient(
            credentials=credentials,
            transport="rest",
            client_options={"api_endpoint": options.endpoint.rstrip("/")} if options.endpoint else None,
        )
        session = _session(self._client.transport)
        session._max_refresh_attempts = 0  # else it sends a request again after a 401, up to twice
        session.max_redirects = 0  # an image and a key go where they were sent, and nowhere else
        session.hooks["response"].append(self._keep)
        # Without one of its own, requests looks into the user's .netrc, and puts the password from there in the token's place.
        session.auth = _as_it_is
        if not session.is_mtls:  # an adapter with a client's certificate stays
            for prefix in ("https://", "http://"):
                session.mount(prefix, HTTPAdapter(pool_connections=1, pool_maxsize=options.concurrency, max_retries=0))
        bound_session(session)
        if (of_tokens := getattr(session, "_auth_request_session", None)) is not None:
            bound_session(of_tokens)  # a token that trickles in would keep the call waiting just as well
            google_errors.refuse_retries(of_tokens)
        if options.emulated:
            session.trust_env = False  # no proxy, no .netrc, no bundle of certificates

    @property
    def host(self) -> str:
        return urlsplit(self._client.transport.host).hostname or ""

    def ask(self, request: dict[str, Any], images: int) -> bytes | ProviderError:
        call = self._call
        call.forget()
        failure: Exception = RuntimeError("no reply")
        try:
            with within(self._timeout):
                self._client.batch_annotate_images(request=request, retry=None, timeout=self._timeout)
        except Exception as error:  # noqa: BLE001 - it raises what it likes on a strange reply
            failure = error
        secret = getattr(self._credentials, "token", None) or ""
        if call.status not in (0, 200):
            return google_errors.of_reply(call.status, call.raw or b"", images, call.retry_after, secret)
        # Whatever the SDK made of it: a body that came is read by ours.
        return call.raw if call.raw is not None else _from_sdk(failure, secret)

    def _keep(self, response: requests.Response, **_: Any) -> None:
        self._call.status = response.status_code
        self._call.retry_after = response.headers.get("Retry-After")
        self._call.raw = response.content  # raises where the connection breaks within the body
        self._tap(self._call.exchange(OPERATION, response.headers))

    def close(self) -> None:
        self._client.transport.close()


def _session(transport: Any) -> Any:
    session = getattr(transport, "_session", None)
    if session is None or not hasattr(session, "_max_refresh_attempts"):
        message = "this google-cloud-vision is made otherwise than it was, and may retry; use --setting transport=grpc"
        raise ProviderError(ErrorKind.PROTOCOL, message)
    return session


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _from_sdk(error: Exception, *secrets: str) -> ProviderError:
    """No reply. Uncertain where the request may have reached the service."""
    if isinstance(error, GoogleAuthError):
        return google_errors.of_credentials(error, *secrets)
    message = redact(f"{type(error).__name__}: {error}", *secrets)
    if isinstance(error, requests.RequestException | OSError):
        sent = not never_sent(error)
        return ProviderError(ErrorKind.TRANSIENT, message, uncertain=sent, sent=sent)
    return ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)
