"""Clarifai's recorded replies, played to the SDK by an ordinary interceptor below the channel that keeps a reply's bytes."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("clarifai_grpc")

import grpc
from apibench_adapters import rpc
from apibench_adapters.clarifai import adapter
from clarifai_grpc.grpc.api import service_pb2
from google.protobuf import json_format

from apibench.query.contract import Answer, ProviderOptions
from tests.recorded.cases import Case, check, table


class Ended(grpc.RpcError):  # type: ignore[misc]  # grpcio has no types
    """A call that ended by a status."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said

    def code(self) -> Any:
        return grpc.StatusCode[self.said["code"]]

    def details(self) -> str:
        return str(self.said["message"])

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.said["trailers"].items())


class Player(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Answers each call with the case's reply. It is its own call: what a channel asks of one is its result."""

    def __init__(self, case: Case) -> None:
        self.ended = Ended(case.rpc) if case.rpc is not None else None
        self.body = case.body if case.json is None else serialised(case.json)
        self.sent: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Player:
        self.sent.append((details.method, request))
        return self

    def result(self) -> bytes:
        if self.ended is not None:
            raise self.ended
        return self.body


def serialised(message: Any) -> bytes:
    return bytes(json_format.ParseDict(message, service_pb2.MultiOutputResponse()).SerializeToString())


@pytest.mark.parametrize("case", table("clarifai"))
def test_a_recorded_reply_becomes_the_expected_outcome(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(case)
    monkeypatch.setattr(
        rpc, "loopback_channel", lambda _: grpc.intercept_channel(grpc.insecure_channel("127.0.0.1:1"), player)
    )
    provider = adapter.create(ProviderOptions(endpoint="http://127.0.0.1:1", emulated=True))
    outcomes = provider.label(case.sent)
    provider.close()
    check(case, outcomes, adapter)
    ((method, asked),) = player.sent
    assert method == "/clarifai.api.V2/PostModelOutputs"
    assert [given.data.image.base64 for given in asked.inputs] == [image.data for image in case.sent]
    if case.images == 1 and case.rpc is None:
        (outcome,) = outcomes
        assert outcome.raw == player.body, "exactly as received"
    for outcome in outcomes:
        if isinstance(outcome, Answer):  # the SDK, too, can read what is stored
            assert len(service_pb2.MultiOutputResponse.FromString(outcome.raw).outputs) == 1
