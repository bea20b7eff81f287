"""Classifiers of this machine as a provider: apibench's own, and ONNX files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apibench_adapters import local, local_onnx

from apibench.emulator import Answerer
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.labels import imagenet
from apibench.query import registry, stage
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Label, ProviderError, ProviderOptions
from apibench.query.stage import QuerySettings
from tests.emulation import LABRADOR, PIZZA, RETRIEVER, by_colour, picture
from tests.fakes import QUICK, FakeProvider


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny classifier under a known name, and the provider's entry point."""
    point = EntryPoint("local", "apibench_adapters.local:adapter", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(local, "_canonical", lambda name: f"canonical:{name}")
    monkeypatch.setattr(local, "_load", lambda name: Answerer(by_colour, name))


def encoded(data: bytes) -> EncodedImage:
    return EncodedImage(data, hashlib.sha256(data).hexdigest())


@pytest.mark.usefixtures("tiny")
def test_labels_are_imagenets_names_with_softmax_scores() -> None:
    adapter = registry.adapter("local:tiny")
    provider = adapter.create(ProviderOptions(settings={"max_labels": 3}))
    (outcome,) = provider.label([encoded(picture(200, 40, 10))])
    assert isinstance(outcome, Answer)
    classes = imagenet.vocabulary().classes
    light = np.array([200, 40, 10]) + 1e-3
    shares = light / light.sum()
    expected = [
        Label(classes[index].name, pytest.approx(share), classes[index].synset)  # type: ignore[arg-type]
        for index, share in zip((RETRIEVER, LABRADOR, PIZZA), shares, strict=True)
    ]
    assert list(outcome.parsed.labels) == expected
    assert outcome.parsed.model_version == "canonical:tiny"
    assert adapter.parse(outcome.raw) == outcome.parsed == registry.adapter("local").parse(outcome.raw)


@pytest.mark.usefixtures("tiny")
def test_it_is_local_and_free_of_any_host() -> None:
    provider = registry.adapter("local:tiny").create(ProviderOptions())
    assert provider.host == ""
    assert registry.origin_of(provider.host, provider.info, emulated=False) == "local"
    # Only where there is no host at all: a vendor's own that cannot be found out is not this machine.
    assert registry.origin_of("", FakeProvider.info, emulated=False) == "custom"
    assert registry.origin_of("somewhere", provider.info, emulated=False) == "custom"


@pytest.mark.usefixtures("tiny")
def test_a_set_is_asked_about_and_stored_like_any_vendors(clean_set: ImageSet, tmp_path: Path) -> None:
    query = QuerySettings("local:tiny", policy=QUICK)
    report = stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    assert (report.answered, report.problems) == (5, [])


@pytest.mark.usefixtures("tiny")
def test_what_is_no_image_is_refused_and_a_failing_network_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = registry.adapter("local:tiny").create(ProviderOptions())
    (outcome,) = provider.label([encoded(b"\x89PNG no image")])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.sent) == (ErrorKind.REJECTED, False)

    monkeypatch.setattr(local, "_load", lambda name: Answerer(lambda _: np.full(1000, np.nan), name))
    provider = registry.adapter("local:tiny").create(ProviderOptions())
    (outcome,) = provider.label([encoded(picture())])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.sent, outcome.uncertain) == (ErrorKind.TRANSIENT, False, False)


@pytest.mark.usefixtures("tiny")
def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="none named; write local:NAME"):
        registry.adapter("local").settings(ProviderOptions())
    with pytest.raises(ValueError, match="max_labels: 0 is not a whole number"):
        registry.adapter("local:tiny").settings(ProviderOptions(settings={"max_labels": 0}))
    for wrong in (ProviderOptions(endpoint="https://x.example"), ProviderOptions(emulated=True)):
        with pytest.raises(ProviderError, match="on this machine"):
            registry.adapter("local:tiny").create(wrong)
    with pytest.raises(ProviderError) as caught:
        local.parse(b'{"classifier": "x", "labels": [{"name": "dog", "score": 2, "id": "n1"}]}')
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_a_classifier_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("local", "apibench_adapters.local:adapter", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    for name, said in (
        ("pypi:nothing", "pypi:nothing: unknown"),
        ("file:mobilenetv2_100=/nowhere.pth", "no file /nowhere.pth"),
        ("resnet9000", "neither timm nor torchvision knows"),
    ):
        with pytest.raises(ApibenchError, match=said):
            registry.adapter(f"local:{name}").settings(ProviderOptions())


def test_only_who_reads_names_takes_one() -> None:
    with pytest.raises(ApibenchError, match="aws:x: aws takes nothing after a colon"):
        registry.adapter("aws:x")


def test_reading_needs_neither_torch_nor_a_classifier() -> None:
    code = (
        "import sys\nfrom apibench_adapters.local import adapter\n"
        'parsed = adapter.parse(b\'{"classifier": "x", "labels": [{"name": "Dog", "score": 1, "id": "n02"}]}\')\n'
        "assert parsed.labels[0].name == 'Dog'\n"
        "assert not {'torch', 'onnxruntime', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- ONNX ---


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Mean colour, then a matrix: red is class 207, green 208, blue 963. Input (N, 3, height, width), sides left open."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: it writes the model of this test")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra 'onnx')")
    helper, tensor = onnx.helper, onnx.TensorProto
    weights = np.zeros((3, 1000), dtype=np.float32)
    weights[[0, 1, 2], [RETRIEVER, LABRADOR, PIZZA]] = 8.0
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("x", tensor.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", tensor.FLOAT, ["n", 1000])],
        [helper.make_tensor("w", tensor.FLOAT, [3, 1000], weights.ravel())],
    )
    path = tmp_path / "colours.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


def test_an_onnx_file_answers(model: Path) -> None:
    adapter = local.adapter.named(f"onnx:{model}?mean=0&std=1&size=32")
    settings = adapter.settings(ProviderOptions())
    digest = hashlib.sha256(model.read_bytes()).hexdigest()[:12]
    assert settings["classifier"] == f"onnx:colours.onnx?mean=0&std=1&size=32#{digest}"
    provider = adapter.create(ProviderOptions())
    (outcome,) = provider.label([encoded(picture(200, 40, 10))])
    assert isinstance(outcome, Answer), outcome
    logits = np.zeros(1000)
    logits[[RETRIEVER, LABRADOR, PIZZA]] = np.array([200, 40, 10]) / 255 * 8
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [label.score for label in outcome.parsed.labels[:2]] == pytest.approx(
        [expected[RETRIEVER], expected[LABRADOR]], rel=1e-4
    )
    assert outcome.parsed.labels[0].name == imagenet.vocabulary().classes[RETRIEVER].name
    assert json.loads(outcome.raw)["classifier"] == settings["classifier"]


def test_an_onnx_file_that_is_none_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra 'onnx')")
    path = tmp_path / "no.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ProviderError, match=r"onnx:no\.onnx: not a model of images"):
        local.adapter.named(f"onnx:{path}").create(ProviderOptions())


def test_without_onnxruntime_its_extra_is_named(
    tmp_path: Path, clean_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(b"nothing")
    point = EntryPoint("local", "apibench_adapters.local:adapter", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ApibenchError, match="extra 'onnx'"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", QuerySettings(f"local:onnx:{path}"))


@pytest.mark.parametrize(
    ("options", "said"),
    [("?size=x", "size"), ("?mean=1,2", "mean"), ("?std=0", "std must be above 0"), ("?width=3", "unknown option")],
)
def test_wrong_options_of_an_onnx_file_are_named(tmp_path: Path, options: str, said: str) -> None:
    path = tmp_path / "some.onnx"
    path.touch()
    with pytest.raises(ValueError, match=said):
        local_onnx.Model.of(f"onnx:{path}{options}")
    with pytest.raises(ValueError, match="no such file"):
        local_onnx.Model.of("onnx:/nowhere.onnx")


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        (["n", 3, 224, 192], None, (True, 224, 192)),
        ([1, 299, 299, 3], 64, (False, 299, 299)),
        (["n", 3, "h", "w"], None, (True, 224, 224)),
        (["n", 3, None, -1], 64, (True, 64, 64)),
    ],
)
def test_the_layout_is_the_models_own(shape: list[Any], size: int | None, expected: tuple[bool, int, int]) -> None:
    assert local_onnx._layout(shape, size) == expected
    for wrong in ([1, 3, 224], [1, 4, 224, 224]):
        with pytest.raises(ValueError, match="an input of shape"):
            local_onnx._layout(wrong, None)
