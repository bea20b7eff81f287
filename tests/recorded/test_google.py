"""Google's recorded replies: over HTTP played by ``responses``, over gRPC by an interceptor below rpc.KeepingChannel.

Beside what the tables document, ``rpc`` may have ``details``: google.rpc's, in protobuf's JSON form.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from apibench_adapters import rpc
from apibench_adapters.google import adapter

from apibench.query.contract import ProviderOptions
from tests.recorded.cases import Case, check, table

vision = pytest.importorskip("google.cloud.vision_v1")
grpc = pytest.importorskip("grpc")
responses = pytest.importorskip("responses")
json_format = pytest.importorskip("google.protobuf.json_format")
error_details = pytest.importorskip("google.rpc.error_details_pb2")
status_pb2 = pytest.importorskip("google.rpc.status_pb2")

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("case", table("google_rest"))
def test_a_recorded_reply_over_http_becomes_the_expected_outcome(case: Case) -> None:
    settings = {"transport": "rest"}
    provider = adapter.create(ProviderOptions(endpoint=NOWHERE, emulated=True, settings=settings))
    with responses.RequestsMock() as played:
        played.post(f"{NOWHERE}/v1/images:annotate", body=case.body, status=case.status, headers=case.headers)
        check(case, provider.label(case.sent), adapter)
        assert len(played.calls) == 1
    provider.close()


class Player(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Answers in the server's place: with bytes, or with a status that has the trailing metadata of the service, or none."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.calls = 0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls += 1
        assert details.method.endswith("/BatchAnnotateImages")
        assert len(request.requests) == self.case.images
        return Played(self.case)


class Played(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call that has ended."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def result(self, timeout: float | None = None) -> bytes:
        if self._case.rpc is not None:
            raise self
        if self._case.json is None:
            return self._case.body
        message = vision.BatchAnnotateImagesResponse.from_json(json.dumps(self._case.json))
        data: bytes = vision.BatchAnnotateImagesResponse.serialize(message)
        return data

    def code(self) -> Any:
        return grpc.StatusCode[self._case.rpc["code"]] if self._case.rpc else grpc.StatusCode.OK

    def details(self) -> str:
        return str(self._case.rpc["message"]) if self._case.rpc else ""

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        if self._case.rpc is None or "trailers" not in self._case.rpc:
            return ()
        said = {"code": self.code().value[0], "message": self.details(), "details": self._case.rpc["details"]}
        status = json_format.ParseDict(said, status_pb2.Status())
        return *self._case.rpc["trailers"].items(), ("grpc-status-details-bin", status.SerializeToString())

    def exception(self, timeout: float | None = None) -> Any:
        return self if self._case.rpc is not None else None

    def initial_metadata(self) -> tuple[()]:
        return ()

    def _ended(self, *_: Any) -> Any:
        return None

    add_callback = add_done_callback = cancel = cancelled = done = is_active = running = time_remaining = traceback = (
        _ended
    )


@pytest.mark.parametrize("case", table("google_grpc"))
def test_a_recorded_reply_over_grpc_becomes_the_expected_outcome(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    player, channel = Player(case), rpc.loopback_channel
    monkeypatch.setattr(rpc, "loopback_channel", lambda endpoint: grpc.intercept_channel(channel(endpoint), player))
    provider = adapter.create(ProviderOptions(endpoint=NOWHERE, emulated=True))
    check(case, provider.label(case.sent), adapter)
    assert player.calls == 1
    provider.close()
