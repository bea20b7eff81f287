"""Recorded Azure responses (synthetic), through the unmodified SDK but for its socket, for which ``responses`` stands in."""

from __future__ import annotations

import pytest
import responses
from apibench_adapters.azure import adapter

from apibench.query.contract import ProviderOptions
from tests.recorded.cases import Case, check, table

pytest.importorskip("azure.cognitiveservices.vision.computervision")

ENDPOINT = "https://name.cognitiveservices.azure.com"


@pytest.mark.parametrize("case", table("azure"))
def test_a_recorded_response(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_ENDPOINT", ENDPOINT)
    monkeypatch.setenv("VISION_KEY", "of-nobody")
    headers = {"Content-Type": "application/json; charset=utf-8"} | case.headers
    with responses.RequestsMock() as mock:
        mock.post(
            f"{ENDPOINT}/vision/v3.2/tag",
            body=case.body,
            status=case.status,
            content_type=headers.pop("Content-Type"),
            headers=headers,
        )
        provider = adapter.create(ProviderOptions())
        outcomes = provider.label(case.sent)
        provider.close()
        assert len(mock.calls) == 1, "sent once, and nowhere else"
    check(case, outcomes, adapter)
