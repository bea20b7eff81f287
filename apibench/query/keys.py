"""The store's key of a query, but for the image: who answers (the *origin*), and what it is told.

Before there is a client the origin is what is expected; only the client knows which host its SDK resolved. Into the settings of
the key goes what makes a provider another one: of an emulator its network, of an endpoint of one's own its address. An address
may hold a key (a gateway's path often does), and the store is shown, exported and published, so no path is ever written into it.
"""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

from apibench.errors import ApibenchError
from apibench.query import pricing, registry
from apibench.query.contract import Adapter
from apibench.query.redact import redact
from apibench.query.replay import Tape
from apibench.query.settings import QuerySettings, Setting
from apibench.query.store import Key, canonical

_PORTS = {"https": 443, "http": 80}


def settings_of(adapter: Adapter, query: QuerySettings) -> dict[str, Setting]:
    """The adapter's own settings. Raises ApibenchError naming a wrong one."""
    try:
        adapter.wire(query.options())
        return dict(adapter.settings(query.options()))
    except ValueError as error:
        raise ApibenchError(f"{query.provider}: setting {error}") from error


def key_of(adapter: Adapter, query: QuerySettings, origin: str, address: str) -> Key:
    """The key under which answers of this origin are stored; ``address`` is the endpoint's, where it is one of one's own."""
    settings = settings_of(adapter, query)
    if query.replay is not None:
        return tape_of(adapter, query).key(query.campaign)
    if query.emulated:
        from apibench.classifiers import canonical as canonical_name

        # Another network is another provider; that of a running emulator is named in its replies.
        settings["emulated_by"] = "a running emulator" if query.endpoint else canonical_name(query.target)
    elif origin == "custom":
        settings["host"] = address  # two endpoints of one's own are two providers
    return Key(query.campaign, adapter.info.name, origin, canonical(settings))


def expected_key(adapter: Adapter, query: QuerySettings) -> Key:
    """The key before there is a client."""
    return key_of(adapter, query, *expected(adapter, query))


def expected(adapter: Adapter, query: QuerySettings) -> tuple[str, str]:
    """The origin before there is a client (the SDK's own endpoint is the vendor's), and an endpoint's address."""
    if query.emulated:
        return "emulated", ""
    if query.replay is not None:
        return tape_of(adapter, query).origin, ""
    endpoint = adapter.endpoint(query.options())
    if endpoint is None:
        return "live" if adapter.info.hosts else "local", ""
    try:
        host = urlsplit(endpoint).hostname or ""
        return registry.origin_of(host, adapter.info, emulated=False), address_of(endpoint)
    except ValueError:
        return "custom", ""  # not a URL: the adapter says so when a client is made


def is_untold(adapter: Adapter, query: QuerySettings) -> bool:
    """Whether only a client can tell who answers: its adapter names no hosts, and none computes on this machine for certain.

    For certain is what the price list that comes along has a price of nothing for.
    """
    return expected(adapter, query)[0] == "local" and pricing.price_of_image(query.provider) != 0


def tape_of(adapter: Adapter, query: QuerySettings) -> Tape:
    """What the cassette has that a query is answered from."""
    assert query.replay is not None
    return Tape.of(query.replay, adapter.info.name, adapter.wire(query.options()), settings_of(adapter, query))


def address_of(endpoint: str) -> str:
    """An endpoint as it stands in the key: host and port, and of its path a hash, since a path may be a key.

    One spelling for all that are one endpoint: without the scheme's own port and a root's dot, in lower case. Raises ValueError
    for what is no URL.
    """
    parts = urlsplit(endpoint)
    port = f":{parts.port}" if parts.port not in (None, _PORTS.get(parts.scheme)) else ""
    rest = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
    return host_of(parts.hostname or "") + port + (f"/sha256-{_hash(rest)}" if rest else "")


def host_of(host: str) -> str:
    """A host's name in its one spelling; where it is or looks like a key, a hash of it."""
    host = host.lower().rstrip(".")
    return host if redact(host, most=len(host)) == host else f"sha256-{_hash(host)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
