"""The emulator's Clarifai, over real sockets, with the unmodified clarifai-grpc as its client."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("clarifai_grpc")

import grpc
from apibench_adapters.rpc import Status, loopback_channel
from clarifai_grpc.channel import clarifai_channel
from clarifai_grpc.grpc.api import resources_pb2, service_pb2, service_pb2_grpc
from clarifai_grpc.grpc.api.status.status_code_pb2 import StatusCode

from apibench.emulator import Answerer, Emulator
from apibench.emulator import clarifai as wire
from apibench.emulator.answerer import Pixels, Probabilities
from apibench.emulator.terms import terms
from tests.emulation import Start, bomb, emulators, encode, picture


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts emulators with the tiny classifier, and stops them."""
    monkeypatch.setattr(
        clarifai_channel, "wrap_response_deserializer", clarifai_channel._response_deserializer_for_grpc
    )
    with emulators("clarifai") as started:
        yield started


def asked(
    *images: bytes, model: str = "general-image-recognition", **config: Any
) -> service_pb2.PostModelOutputsRequest:
    return service_pb2.PostModelOutputsRequest(
        user_app_id=resources_pb2.UserAppIDSet(user_id="clarifai", app_id="main"),
        model_id=model,
        inputs=[
            resources_pb2.Input(id=f"in-{n}", data=resources_pb2.Data(image=resources_pb2.Image(base64=image)))
            for n, image in enumerate(images)
        ],
        model=resources_pb2.Model(
            output_info=resources_pb2.OutputInfo(output_config=resources_pb2.OutputConfig(**config))
        ),
    )


def ask(emulator: Emulator, request: Any, key: str | None = "Key EMULATED") -> Any:
    metadata = () if key is None else (("authorization", key),)
    with loopback_channel(emulator.grpc_url) as channel:
        return service_pb2_grpc.V2Stub(channel).PostModelOutputs(request, metadata=metadata, timeout=10)


def code(reply: Any) -> str:
    return str(StatusCode.Name(reply.status.code))


def names(output: Any) -> list[str]:
    return [concept.name for concept in output.data.concepts]


# --- answers ---


def test_an_answer_has_clarifais_shape_scale_and_style(start: Start) -> None:
    reply = ask(start(), asked(picture(), min_value=0.03))
    assert (code(reply), reply.status.description, len(reply.status.req_id)) == ("SUCCESS", "Ok", 32)
    (output,) = reply.outputs
    assert (StatusCode.Name(output.status.code), output.status.description) == ("SUCCESS", "Ok")
    assert (output.input.id, len(output.id)) == ("in-0", 32)
    model = output.model
    assert (model.id, model.user_id, model.app_id) == ("general-image-recognition", "clarifai", "main")
    assert (model.model_version.id, StatusCode.Name(model.model_version.status.code)) == (
        "emulated/tiny",
        "MODEL_TRAINED",
    )
    first = output.data.concepts[0]
    assert (first.id, first.name, first.app_id) == ("ai_n02099601", "golden retriever", "main")
    assert first.value == pytest.approx(0.8, abs=1e-4)
    assert names(output) == [
        "golden retriever",
        "retriever",
        "dog",
        "canine",
        "mammal",
        "pet",
        "animal",
        "labrador retriever",
        "pizza",
        "food",
    ]
    values = [concept.value for concept in output.data.concepts]
    assert values == sorted(values, reverse=True)
    assert values == np.array(values, np.float32).tolist(), "numbers of 32 bits"


def test_every_concept_has_a_name_and_an_id_of_its_own() -> None:
    everything = terms(np.full(1000, 0.001))
    assert len({term.name.lower() for term in everything}) == len(everything)
    assert len({term.synset for term in everything}) == len(everything)


def even(_: Pixels) -> Probabilities:
    return np.full(1000, 0.001)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 20),
        ({"max_concepts": 0}, 20),
        ({"max_concepts": 3}, 3),
        ({"max_concepts": 200}, 200),
        ({"min_value": 0.5}, 0),
        ({"language": "en"}, 20),
    ],
)
def test_max_concepts_and_min_value_are_honoured(start: Start, config: dict[str, Any], expected: int) -> None:
    reply = ask(start(answerer=Answerer(even, "even")), asked(picture(), **config))
    assert code(reply) == "SUCCESS"
    (output,) = reply.outputs
    assert len(output.data.concepts) == expected
    assert output.HasField("data"), "there, even where it is empty"


def test_min_value_is_a_threshold(start: Start) -> None:
    reply = ask(start(), asked(picture(), min_value=0.7))
    assert names(reply.outputs[0]) == ["golden retriever", "retriever", "dog", "canine", "mammal", "pet", "animal"]


def test_a_batch_is_answered_in_order_and_billed_by_the_image(start: Start, tmp_path: Path) -> None:
    emulator = start(bill=tmp_path / "bill.jsonl")
    images = [picture(250, 0, 0), picture(0, 250, 0), picture(0, 0, 250)]
    reply = ask(emulator, asked(*images, max_concepts=1))
    assert [names(output) for output in reply.outputs] == [["golden retriever"], ["labrador retriever"], ["pizza"]]
    assert [output.input.id for output in reply.outputs] == ["in-0", "in-1", "in-2"]
    lines = [json.loads(line) for line in (tmp_path / "bill.jsonl").read_text().splitlines()]
    assert [line["sha256"] for line in lines] == [hashlib.sha256(image).hexdigest() for image in images]
    assert {(line["provider"], line["operation"], line["target"]) for line in lines} == {
        ("clarifai", "PostModelOutputs", "tiny")
    }
    assert emulator.hits == Counter({"answered": 1})


def test_the_models_own_version_may_be_asked_for(start: Start) -> None:
    request = asked(picture())
    request.version_id = "emulated/tiny"
    assert code(ask(start(), request)) == "SUCCESS"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"])
def test_the_documented_formats_are_taken(start: Start, image_format: str) -> None:
    image = encode(Image.new("RGB", (64, 64), (0, 0, 250)), image_format)
    assert names(ask(start(), asked(image)).outputs[0])[0] == "pizza"


def test_one_pixel_is_an_image(start: Start) -> None:
    assert code(ask(start(), asked(picture(size=(1, 1))))) == "SUCCESS"


# --- refusals ---

REFUSED_IMAGES = [
    ("text", b"not an image", "INPUT_DOWNLOAD_FAILED"),
    ("truncated", picture()[:60], "INPUT_DOWNLOAD_FAILED"),
    ("no pixels", bomb(100), "INPUT_DOWNLOAD_FAILED"),
    ("ICO", encode(Image.new("RGB", (64, 64)), "ICO"), "INPUT_DOWNLOAD_FAILED"),
    ("no bytes", b"", "INPUT_INVALID_ARGUMENT"),
    ("85 megapixels and some", bomb(9220), "INPUT_OVER_LIMIT"),
    ("a bomb", bomb(30_000), "INPUT_OVER_LIMIT"),
    ("20 MB", picture().ljust(20 * 1024 * 1024, b"\0"), "INPUT_OVER_LIMIT"),
]


@pytest.mark.parametrize(("image", "status"), [r[1:] for r in REFUSED_IMAGES], ids=[r[0] for r in REFUSED_IMAGES])
def test_an_image_is_refused_in_its_own_output(start: Start, image: bytes, status: str) -> None:
    emulator = start()
    reply = ask(emulator, asked(image))
    assert (code(reply), reply.status.description) == ("FAILURE", "Failure")
    (output,) = reply.outputs
    assert StatusCode.Value(status) == output.status.code
    assert (names(output), output.HasField("data")) == ([], True)
    assert emulator.hits == Counter({"FAILURE": 1})
    assert emulator.bill_count == 0


def test_the_largest_images_are_taken(start: Start) -> None:
    emulator = start()
    assert code(ask(emulator, asked(picture().ljust(20 * 1024 * 1024 - 1, b"\0")))) == "SUCCESS"
    assert code(ask(emulator, asked(picture(size=(85_000, 10))))) == "SUCCESS"


def test_a_refused_image_does_not_spoil_the_others_and_is_not_billed(start: Start) -> None:
    emulator = start()
    reply = ask(emulator, asked(picture(), b"junk", picture(0, 0, 250)))
    assert (code(reply), reply.status.description) == ("MIXED_STATUS", "Mixed Success")
    assert [StatusCode.Name(output.status.code) for output in reply.outputs][::2] == ["SUCCESS", "SUCCESS"]
    assert reply.outputs[1].status.code == StatusCode.Value("INPUT_DOWNLOAD_FAILED")
    assert emulator.hits == Counter({"answered": 1})
    assert emulator.bill_count == 2


def by_url() -> Any:
    request = asked()
    request.inputs.add().data.image.url = "https://samples.clarifai.com/metro-north.jpg"
    return request


def of_another_user() -> Any:
    request = asked(picture())
    request.user_app_id.user_id = "somebody"
    return request


def of_another_version() -> Any:
    request = asked(picture())
    request.version_id = "aa7f35c01e0642fda5cf400f543e7c40"
    return request


DOG = resources_pb2.Concept(name="dog")
REFUSED = [
    ("another model", asked(picture(), model="food-item-recognition"), "MODEL_DOES_NOT_EXIST"),
    ("another user", of_another_user(), "MODEL_DOES_NOT_EXIST"),
    ("another version", of_another_version(), "MODEL_DOES_NOT_EXIST"),
    ("no images", asked(), "INPUT_INVALID_REQUEST"),
    ("129 images", asked(*[b"x"] * 129), "INPUT_INVALID_REQUEST"),
    ("too many concepts", asked(picture(), max_concepts=201), "MODEL_INVALID_ARGUMENT"),
    ("a negative value", asked(picture(), min_value=-0.1), "MODEL_INVALID_ARGUMENT"),
    ("no value", asked(picture(), min_value=float("nan")), "MODEL_INVALID_ARGUMENT"),
    ("chosen concepts", asked(picture(), select_concepts=[DOG]), "MODEL_INVALID_ARGUMENT"),
    ("another language", asked(picture(), language="zh"), "MODEL_INVALID_ARGUMENT"),
]


@pytest.mark.parametrize(("request_", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_request_is_refused_by_the_status_of_the_message(start: Start, request_: Any, status: str) -> None:
    emulator = start()
    reply = ask(emulator, request_)
    assert (code(reply), len(reply.outputs)) == (status, 0)
    assert reply.status.description
    assert emulator.hits == Counter({status: 1})
    assert emulator.bill_count == 0


def test_an_image_by_url_is_not_fetched(start: Start) -> None:
    reply = ask(start(), by_url())
    assert "not emulated" in reply.outputs[0].status.details


def test_128_images_are_taken(start: Start) -> None:
    emulator = start()
    reply = ask(emulator, asked(*[picture()] * 128, max_concepts=1))
    assert (code(reply), len(reply.outputs), emulator.bill_count) == ("SUCCESS", 128, 128)


def test_128_megabytes_are_the_most(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    assert wire.MAX_BATCH_BYTES == 128 * 1024 * 1024
    monkeypatch.setattr(wire, "MAX_BATCH_BYTES", 2 * len(image))
    emulator = start()
    assert code(ask(emulator, asked(image, image))) == "SUCCESS"
    assert code(ask(emulator, asked(image, image, image))) == "RPC_MAX_MESSAGE_SIZE_EXCEEDED"


# --- keys ---


@pytest.mark.parametrize("key", [None, "", "Key ", "Bearer SECRET", "SECRET"])
def test_a_request_without_a_key_is_invalid(start: Start, key: str | None) -> None:
    emulator = start()
    reply = ask(emulator, asked(picture()), key)
    assert code(reply) == "CONN_INVALID_REQUEST"
    assert "SECRET" not in str(reply)
    assert emulator.bill_count == 0


def test_only_accepted_keys_are_known(start: Start) -> None:
    emulator = start(accepted_keys={"EMULATED"})
    assert code(ask(emulator, asked(picture()))) == "SUCCESS"
    reply = ask(emulator, asked(picture()), "Key OTHER")
    assert (code(reply), reply.status.description) == (
        "CONN_KEY_INVALID",
        "Invalid API key or Invalid API key/application pair",
    )
    assert "OTHER" not in str(reply)


# --- failures ---


@pytest.mark.parametrize(
    ("fault", "status", "details"),
    [
        ("throttle", "CONN_THROTTLED", "exceeded limit of 15 requests per second"),
        ("provisioned", "CONN_THROTTLED", "exceeded limit of 15 requests per second"),
        ("500", "INTERNAL_SERVER_ISSUE", ""),
        ("expired", "CONN_TOKEN_INVALID", ""),
    ],
)
def test_a_failure_on_demand_is_a_status_in_a_message(start: Start, fault: str, status: str, details: str) -> None:
    emulator = start(faults=[fault])
    reply = ask(emulator, asked(picture()))
    assert (code(reply), reply.status.details) == (status, details)
    assert code(ask(emulator, asked(picture()))) == "SUCCESS"
    assert emulator.hits == Counter({status: 1, "answered": 1})
    assert emulator.bill_count == 1


def test_images_fail_on_demand_inside_a_success(start: Start) -> None:
    emulator = start(faults=["image-error", "bad-image"])
    reply = ask(emulator, asked(picture(1), picture(2), picture(3)))
    assert code(reply) == "MIXED_STATUS"
    statuses = [StatusCode.Name(output.status.code) for output in reply.outputs]
    assert statuses == ["INTERNAL_SERVER_ISSUE", "SUCCESS", "SUCCESS"]
    refused = ask(emulator, asked(picture(1), picture(2)))
    assert code(refused) == "FAILURE"
    assert {output.status.code for output in refused.outputs} == {StatusCode.Value("INPUT_DOWNLOAD_FAILED")}
    assert emulator.bill == {"clarifai": 2}


def ended(emulator: Emulator, request: Any) -> Status:
    with pytest.raises(grpc.RpcError) as caught:
        ask(emulator, request)
    return Status.of(caught.value)


@pytest.mark.parametrize(("fault", "status"), [("429", "RESOURCE_EXHAUSTED"), ("503", "UNAVAILABLE")])
def test_a_failure_on_demand_is_a_status_of_grpc(start: Start, fault: str, status: str) -> None:
    emulator = start(faults=[fault])
    found = ended(emulator, asked(picture()))
    assert (found.code, found.from_service, found.uncertain) == (status, True, False)
    assert emulator.hits == Counter({status: 1})


def test_the_rate_limit_throttles(start: Start) -> None:
    emulator = start(rate_limit=0.001)
    assert [code(ask(emulator, asked(picture()))) for _ in range(3)] == ["SUCCESS", "CONN_THROTTLED", "CONN_THROTTLED"]


def test_another_method_is_not_implemented(start: Start) -> None:
    emulator = start()
    with loopback_channel(emulator.grpc_url) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.V2Stub(channel).ListModels(service_pb2.ListModelsRequest(), timeout=10)
    assert Status.of(caught.value).code == "UNIMPLEMENTED"
    assert emulator.hits == Counter({"UNIMPLEMENTED": 1})


def test_bytes_that_are_no_request_end_the_call(start: Start) -> None:
    with loopback_channel(start().grpc_url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/clarifai.api.V2/PostModelOutputs")(b"\xff\xff", timeout=10)
    assert Status.of(caught.value).code == "INTERNAL"
