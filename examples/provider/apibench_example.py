"""A provider for apibench: a labelling service that takes a PNG by POST and answers ``{"labels": [{"name", "score"}]}``."""

import json
import os
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from apibench.query.contract import (
    Answer,
    ErrorKind,
    Exchange,
    ImageLimits,
    Label,
    Parsed,
    ProviderError,
    ProviderInfo,
    WireKind,
)

ENDPOINT, KEY, PATH = "https://api.example.com", "EXAMPLE_API_KEY", "/v1/label"
KINDS = {400: ErrorKind.REJECTED, 401: ErrorKind.CREDENTIALS, 402: ErrorKind.QUOTA, 429: ErrorKind.THROTTLED}


class ExampleAdapter:
    # hosts: only these are the vendor's own, so only their answers are "live". Rate and limits: as the vendor documents them.
    info = ProviderInfo(
        name="example",
        title="Example Vision",
        hosts=(r"api\.example\.com",),
        rate_per_second=10,
        limits=ImageLimits(max_bytes=8_000_000, min_side=32),
        taps=True,
    )

    def settings(self, options):
        """All that alters an answer; a part of its key in the store, so never a secret. ValueError for a wrong one."""
        if unknown := set(options.settings) - {"top"}:
            raise ValueError(f"{sorted(unknown)[0]}: no setting of example; there is top")
        return {"top": int(options.settings.get("top", 10))}

    def endpoint(self, options):
        return options.endpoint or ENDPOINT

    def wire(self, options):  # noqa: ARG002 - there is one only
        return WireKind.HTTP

    def create(self, options):
        """A client; this is the place to import an SDK. ProviderError (CREDENTIALS) where there is no key."""
        key = "EMULATED" if options.emulated else os.environ.get(KEY)
        if not key:
            raise ProviderError(ErrorKind.CREDENTIALS, f"no key found; set {KEY}", sent=False)
        url = urlsplit(self.endpoint(options))
        if url.scheme != "https" and url.hostname not in ("127.0.0.1", "localhost"):
            raise ProviderError(ErrorKind.CREDENTIALS, "a key is not sent over plain http", sent=False)
        return ExampleProvider(self.info, self.settings(options), url, key, options)

    def parse(self, raw):
        """Labels from a stored answer, without the SDK. ProviderError (PROTOCOL) for anything but what is documented."""
        try:
            return Parsed(tuple(Label(str(x["name"]), float(x["score"])) for x in json.loads(raw)["labels"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ProviderError(ErrorKind.PROTOCOL, f"unreadable: {error}", raw=raw, uncertain=True) from None


adapter = ExampleAdapter()


class ExampleProvider:
    def __init__(self, info, settings, url, key, options):
        self.info, self.settings, self.host = info, settings, url.hostname
        self._url, self._key, self._options = url, key, options

    def label(self, images):
        """One outcome an image, in order; called from several threads. No retry, no redirect, no sleep: the engine decides."""
        return [self._one(image) for image in images]

    def close(self):
        pass

    def _one(self, image):
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname, self._url.port, timeout=self._options.timeout)
        connected = False
        try:
            connection.connect()
            connected = True
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "image/png"}
            connection.request("POST", f"{PATH}?top={self.settings['top']}", image.data, headers)
            reply = connection.getresponse()
            body = reply.read()
        except (OSError, HTTPException) as error:
            # Not connected: nothing was sent. Lost later: it may have been answered and billed.
            message = f"{type(error).__name__}: {error}"
            return ProviderError(ErrorKind.TRANSIENT, message, sent=connected, uncertain=connected)
        finally:
            connection.close()
        kept = {"content-type": reply.getheader("content-type", ""), "retry-after": reply.getheader("retry-after", "")}
        self._options.tap(Exchange(WireKind.HTTP, PATH, reply.status, {k: v for k, v in kept.items() if v}, body))
        if reply.status != 200:
            kind = KINDS.get(reply.status, ErrorKind.TRANSIENT if reply.status >= 500 else ErrorKind.PROTOCOL)
            after = reply.getheader("retry-after", "")
            wait = float(after) if after.isdecimal() else None
            return ProviderError(kind, f"HTTP {reply.status}", status=reply.status, retry_after=wait, raw=body)
        try:
            return Answer(body, self.parse(body))
        except ProviderError as error:
            return error

    parse = staticmethod(adapter.parse)
