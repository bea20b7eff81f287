"""A classifier of one's own as a provider: ``--provider local:NAME``. It costs nothing and sends nothing.

NAME is any that :mod:`apibench.classifiers` reads (``pypi:``, ``timm:``, ``file:``), or ``onnx:PATH`` (see
:mod:`apibench_adapters.local_onnx`). Labels are ImageNet's class names with the softmax as score and WordNet's id, the highest
first. The answers' origin is ``local``.

It is also the shortest example of the contract that a provider keeps (another, of a service over HTTP and in a package of its
own, is ``examples/provider``). Unlike the vendors' adapters it imports more of apibench than that contract: the classifiers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apibench.query.contract import (
    Answer,
    EncodedImage,
    ErrorKind,
    ImageLimits,
    Label,
    Outcome,
    Parsed,
    ProviderError,
    ProviderInfo,
    ProviderOptions,
    WireKind,
)
from apibench_adapters.common import UNREADABLE, Settings, items, merged, redact, score, text, unreadable, whole

if TYPE_CHECKING:
    from apibench.emulator import Answerer

MAX_SIDE = 16_384
INFO = ProviderInfo(
    name="local",
    title="Classifier on this machine",
    hosts=(),
    rate_per_second=1_000.0,  # nobody's limit; how fast it is, the machine says
    extra="onnx",
    limits=ImageLimits(max_side=MAX_SIDE),
)
DEFAULTS = {"max_labels": 10}
ONNX = "onnx:"


class LocalAdapter:
    """What the entry point ``local`` names. Without a classifier's name it can only read what was stored."""

    info = INFO

    def __init__(self, name: str = "") -> None:
        self._name = name

    def named(self, name: str) -> LocalAdapter:
        """The adapter of one classifier: what follows ``local:``."""
        return LocalAdapter(name)

    def settings(self, options: ProviderOptions) -> Settings:
        """The classifier by the name that manifests carry (a file by its hash, without its folder) is a setting like any other.

        Raises ApibenchError where there is no such classifier.
        """
        chosen = merged(options, DEFAULTS, INFO.name)
        if not self._name:
            raise ValueError("classifier: none named; write local:NAME, for instance local:pypi:tf_efficientnet_lite2")
        return {
            "classifier": _canonical(self._name),
            "max_labels": whole("max_labels", chosen["max_labels"], 1, 1000),
        }

    def endpoint(self, options: ProviderOptions) -> str | None:
        return options.endpoint

    def wire(self, options: ProviderOptions) -> WireKind:  # noqa: ARG002 - there is none
        return WireKind.HTTP

    def create(self, options: ProviderOptions) -> LocalProvider:
        if options.endpoint is not None or options.emulated:
            raise ProviderError(ErrorKind.CREDENTIALS, "it is on this machine: there is no endpoint to it", sent=False)
        return LocalProvider(self.settings(options), _load(self._name))

    def parse(self, raw: bytes) -> Parsed:
        return parse(raw)


adapter = LocalAdapter()


def parse(raw: bytes) -> Parsed:
    """Read a stored response: ``{"classifier": NAME, "labels": [{"name": ..., "id": ..., "score": 0 to 1}]}``."""
    try:
        body = json.loads(raw)
        labels = (
            Label(text(label["name"], "name"), score(label["score"], "score"), text(label["id"], "id"))
            for label in items(body["labels"], "labels")
        )
        return Parsed(tuple(labels), text(body["classifier"], "classifier"))
    except UNREADABLE as error:
        raise unreadable(raw, error) from None


class LocalProvider:
    """A network, which looks at one image at a time."""

    host = ""  # nothing is sent anywhere

    def __init__(self, settings: Settings, answerer: Answerer) -> None:
        self.info = INFO
        self.settings = settings
        self._answerer = answerer

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        return [self._one(image) for image in images]

    def close(self) -> None: ...

    def _one(self, image: EncodedImage) -> Outcome:
        from apibench.emulator.answerer import ImageRefusedError, Limits
        from apibench.labels import imagenet

        try:
            found = self._answerer.probabilities(image.data, Limits(("PNG",), min_side=1, max_side=MAX_SIDE))
        except ImageRefusedError as refused:
            return ProviderError(ErrorKind.REJECTED, f"the image is refused: {refused.reason}", sent=False)
        except Exception as error:  # noqa: BLE001 - out of memory, or a model that gives what is no probability
            return ProviderError(ErrorKind.TRANSIENT, redact(f"{type(error).__name__}: {error}"), sent=False)
        classes = imagenet.vocabulary().classes
        first = (-found).argsort(kind="stable")[: int(self.settings["max_labels"])]
        labels = [
            {"name": classes[index].name, "id": classes[index].synset, "score": float(found[index])} for index in first
        ]
        raw = json.dumps({"classifier": self.settings["classifier"], "labels": labels}).encode()
        return Answer(raw, parse(raw))


def _canonical(name: str) -> str:
    if name.startswith(ONNX):
        from apibench_adapters import local_onnx

        return local_onnx.canonical(name)
    from apibench import classifiers

    classifiers.check(name)
    return classifiers.canonical(name)


def _load(name: str) -> Answerer:
    from apibench.emulator import Answerer

    if name.startswith(ONNX):
        from apibench_adapters import local_onnx

        return Answerer(local_onnx.load(name), local_onnx.canonical(name))
    return Answerer.load(name)
