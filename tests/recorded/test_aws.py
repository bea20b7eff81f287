"""Rekognition's recorded replies, played to boto3 by botocore's own hook."""

from __future__ import annotations

from typing import Any

import pytest
from apibench_adapters.aws import adapter
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from apibench.query.contract import ProviderOptions
from tests.fakes import BotocoreBody
from tests.recorded.cases import Case, check, table


@pytest.mark.parametrize("case", table("aws"))
def test_a_recorded_reply_becomes_the_expected_outcome(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SYNTHETIC")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "synthetic")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    provider = adapter.create(ProviderOptions())
    sent: list[Any] = []

    def play(request: Any, **_: object) -> AWSResponse:
        sent.append(request)
        headers = HTTPHeaders.from_pairs(list(case.headers.items()))
        return AWSResponse(request.url, case.status, headers, BotocoreBody(case.body))

    provider._client.meta.events.register("before-send.rekognition", play)
    check(case, provider.label(case.sent), adapter)
    assert len(sent) == 1
    provider.close()
