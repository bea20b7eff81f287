"""What becomes of a request: rate limit, fault, latency, the vendor's wire, the bill, the reply."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from apibench.emulator import vendors
from apibench.emulator.answerer import Answerer, FailingAnswerer, Refusal
from apibench.emulator.bill import Bill
from apibench.emulator.faults import Fault, FaultKind, Faults, RateLimit
from apibench.emulator.latency import Latency
from apibench.emulator.wire import Reply, Request, RpcError, Wire
from apibench.query.contract import WireKind

_log = logging.getLogger(__name__)

_HTML = (("Content-Type", "text/html"),)
_PAGES = {
    FaultKind.BAD_GATEWAY: Reply(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>\n", _HTML),
    FaultKind.GATEWAY_TIMEOUT: Reply(504, b"<html><body><h1>504 Gateway Time-out</h1></body></html>\n", _HTML),
}
# What a proxy that speaks gRPC says in their place: of HTTP's 502 to 504 it makes UNAVAILABLE.
_PROXY_WORDS = {
    FaultKind.BAD_GATEWAY: "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    FaultKind.GATEWAY_TIMEOUT: "upstream request timeout",
}
_SPOILT = {
    FaultKind.MALFORMED: Reply(200, b'{"Labels":[{"Name":"Ret', (("Content-Type", "application/json"),)),
    FaultKind.EMPTY: Reply(200, b"", (("Content-Type", "application/json"),)),
    FaultKind.HTML: Reply(200, b"<html><body><h1>It works!</h1></body></html>\n", _HTML),
}

GivenFaults = Faults | Sequence[str]


@dataclass(frozen=True)
class Rules:
    """How one provider behaves."""

    faults: Faults
    latency: Latency
    limit: RateLimit | None

    @classmethod
    def of(
        cls,
        providers: Sequence[str],
        faults: GivenFaults | Mapping[str, GivenFaults] | None,
        latency: float | str | Mapping[str, float | str],
        rate_limit: float | Mapping[str, float] | None,
        seed: int,
    ) -> dict[str, Rules]:
        """Each provider's, from one thing for all or a mapping by provider; those that share a script use it up together.

        Raises ApibenchError naming what cannot be read.
        """
        scripts: dict[str, GivenFaults] = vendors.each(faults if faults is not None else (), providers)
        # One object for one script, however many providers share it.
        made = {id(one): one if isinstance(one, Faults) else Faults(one) for one in scripts.values()}
        waits: dict[str, float | str] = vendors.each(latency, providers)
        limits = {} if rate_limit is None else vendors.each(rate_limit, providers)
        return {
            name: cls(
                made[id(scripts[name])] if name in scripts else Faults(),
                Latency(waits.get(name, 0.0), seed=seed),
                RateLimit(limits[name]) if name in limits else None,
            )
            for name in providers
        }


class Exchange:
    """Takes requests and hands back replies. Safe to call from several threads. ``hits`` go on counting over restarts."""

    def __init__(self, rules: Mapping[str, Rules], stopping: threading.Event) -> None:
        self._rules = rules
        self._stopping = stopping
        self._wires: Sequence[Wire] = ()
        self._answerers: Mapping[str, Answerer] = {}
        self._bill: Bill | None = None
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(self, wires: Sequence[Wire], answerers: Mapping[str, Answerer], bill: Bill) -> None:
        """From here on requests are taken."""
        self._wires, self._answerers, self._bill = wires, answerers, bill

    @property
    def hits(self) -> Counter[str]:
        """Requests so far, by outcome."""
        with self._lock:
            return Counter(self._hits)

    def handle(self, kind: WireKind, request: Request) -> Reply | None:
        """The reply, or None to close the connection without one."""
        wire = next((wire for wire in self._wires if wire.kind is kind and wire.claims(request)), None)
        if wire is None:
            return self._count(_not_found(self._wires))
        rules = self._rules[wire.provider]
        if rules.limit is not None and not rules.limit.allows():
            return self._count(wire.failure(request, FaultKind.THROTTLE))
        reply = self._outcome(rules.faults.next(), rules.latency, wire, request)
        return None if self._stopping.is_set() else reply

    def _outcome(self, fault: Fault, latency: Latency, wire: Wire, request: Request) -> Reply | None:
        kind = fault.kind
        if kind is FaultKind.HANG:
            self._count(Reply(0, b"", outcome=kind))  # now: its client may be gone when it ends
            self._pause(fault.seconds)
            return None
        self._pause(latency.next())
        match kind:
            case FaultKind.OK:
                return self._count(self._answer(wire, request))
            case FaultKind.BAD_IMAGE:
                return self._count(self._answer(wire, request, Refusal.FORMAT))
            case FaultKind.IMAGE_ERROR:
                return self._count(self._answer(wire, request, Refusal.FAILED, 1))
            case FaultKind.BAD_GATEWAY | FaultKind.GATEWAY_TIMEOUT:
                rpc = RpcError("UNAVAILABLE", _PROXY_WORDS[kind]) if wire.kind is WireKind.GRPC else None
                return self._count(replace(_PAGES[kind], outcome=kind, rpc=rpc))
            case FaultKind.MALFORMED | FaultKind.EMPTY | FaultKind.HTML:
                return self._count(replace(_SPOILT[kind], outcome=kind))
            case FaultKind.RESET:
                return self._count(Reply(0, b"", outcome=kind, reset=True))
            case FaultKind.DROP:
                self._count(Reply(0, b"", outcome=kind))
                return None
            case FaultKind.DROP_AFTER | FaultKind.TRUNCATED | FaultKind.SLOW | FaultKind.CONTENT_TYPE:
                reply = self._answer(wire, request)
                if not reply.billed:  # refused: there is no answer to lose
                    return self._count(reply)
                changed = self._count(_changed(reply, fault))
                return None if kind is FaultKind.DROP_AFTER else changed
            case _:
                return self._count(wire.failure(request, kind))

    def _answer(self, wire: Wire, request: Request, refusal: Refusal | None = None, count: int | None = None) -> Reply:
        """The wire's reply, on the bill if it is an answer. What cannot be computed or billed is not answered.

        ``refusal``: of the first ``count`` images of the request, or of all.
        """
        try:
            answerer = self._answerers[wire.provider]
            if refusal is not None:
                answerer = FailingAnswerer(answerer, refusal, count)
            reply = wire.answer(request, answerer)
            for sha256 in reply.billed:
                self._charge(sha256, wire, request, reply, answerer)
            return reply
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one request must not end the server
            if self._stopping.is_set():
                pass  # it was computed while the bill was closed, and nobody will be told
            elif isinstance(error, OSError):  # a full disk under the bill
                _log.error("request %s is not answered: %s", request.id, error)
            else:
                _log.exception("request %s failed", request.id)
        return wire.failure(request, FaultKind.INTERNAL)

    def _charge(self, sha256: str, wire: Wire, request: Request, reply: Reply, answerer: Answerer) -> None:
        if self._bill is None:
            raise RuntimeError("the emulator is not started")
        self._bill.append(
            {
                "time": datetime.now(UTC).isoformat(),
                "provider": wire.provider,
                "operation": reply.operation,
                "sha256": sha256,
                "request_id": request.id,
                "target": answerer.name,
            }
        )

    def _count(self, reply: Reply) -> Reply:
        with self._lock:
            self._hits[str(reply.outcome)] += 1
        return reply

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)


def _changed(reply: Reply, fault: Fault) -> Reply:
    """An answer as a fault leaves it."""
    match fault.kind:
        case FaultKind.SLOW:
            return replace(reply, outcome=fault.kind, slow=fault.seconds)
        case FaultKind.CONTENT_TYPE:
            others = tuple((name, value) for name, value in reply.headers if name.lower() != "content-type")
            return replace(reply, outcome=fault.kind, headers=(("Content-Type", "text/plain"), *others))
        case _:
            return replace(reply, outcome=fault.kind, cut=len(reply.body) // 2)


def _not_found(wires: Sequence[Wire]) -> Reply:
    """What is there instead: whoever is here has a wrong path, a wrong port, or a provider that is not served."""
    content = {
        "message": "no emulated API is called like this",
        "emulated": [f"{wire.title}: {wire.call} ({wire.kind.value})" for wire in wires],
    }
    return Reply(404, json.dumps(content).encode(), (("Content-Type", "application/json"),), outcome="not found")
