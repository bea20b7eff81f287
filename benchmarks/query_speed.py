"""Calls a second of ``apibench query`` beside the vendor's bare SDK, for each wire, on loopback.

    python benchmarks/query_speed.py [--calls 200] [--concurrency 4] [--rounds 3]

An emulator in a process of its own answers at once (no network looks at the images), so what is measured is the SDK, the
loopback and apibench. Bare SDK and apibench take turns; ratios are of the medians. apibench commits every intent and every
answer to a store on disk, which the bare SDK does not.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from apibench.imageset import encode_png
from apibench.query import registry
from apibench.query.contract import ProviderOptions
from apibench.query.engine import Engine, Question
from apibench.query.store import Key, ResponseStore

SERVE = """
import numpy as np
from apibench.emulator import Answerer, Emulator
with Emulator(answerer=Answerer(lambda _: np.eye(1000)[207], "none"), providers=[{provider!r}]) as emulator:
    wire = __import__("apibench.query.contract", fromlist=["WireKind"]).WireKind({kind!r})
    print(emulator.endpoint(wire), flush=True)
    emulator.wait()
"""
WIRES: dict[str, tuple[str, dict[str, str]]] = {
    "aws": ("aws", {}),
    "azure": ("azure", {}),
    "clarifai": ("clarifai", {}),
    "google": ("google", {}),
    "google (REST)": ("google", {"transport": "rest"}),
}
Call = Callable[[bytes], Any]


def bare_aws(url: str) -> Call:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "rekognition",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="EMULATED",
        aws_secret_access_key="emulated",
        config=Config(proxies={}, max_pool_connections=16),
    )
    return lambda data: client.detect_labels(Image={"Bytes": data}, MaxLabels=10, MinConfidence=1)


def bare_azure(url: str) -> Call:
    from azure.cognitiveservices.vision.computervision import ComputerVisionClient
    from msrest.authentication import CognitiveServicesCredentials

    client = ComputerVisionClient(url, CognitiveServicesCredentials("EMULATED"))
    return lambda data: client.tag_image_in_stream(BytesIO(data))


def bare_clarifai(url: str) -> Call:
    from clarifai_grpc.channel.clarifai_channel import ClarifaiChannel
    from clarifai_grpc.grpc.api import resources_pb2, service_pb2, service_pb2_grpc

    host, _, port = url.removeprefix("http://").rpartition(":")
    stub = service_pb2_grpc.V2Stub(ClarifaiChannel.get_insecure_grpc_channel(base=host, port=int(port)))
    user = resources_pb2.UserAppIDSet(user_id="clarifai", app_id="main")

    def call(data: bytes) -> Any:
        image = resources_pb2.Input(data=resources_pb2.Data(image=resources_pb2.Image(base64=data)))
        request = service_pb2.PostModelOutputsRequest(
            user_app_id=user, model_id="general-image-recognition", inputs=[image]
        )
        return stub.PostModelOutputs(request, metadata=(("authorization", "Key EMULATED"),))

    return call


def bare_google(url: str) -> Call:
    import grpc
    from google.cloud import vision
    from google.cloud.vision_v1.services.image_annotator.transports import ImageAnnotatorGrpcTransport

    transport = ImageAnnotatorGrpcTransport(channel=grpc.insecure_channel(url.removeprefix("http://")))
    return google_call(vision.ImageAnnotatorClient(transport=transport), (("x-goog-api-key", "EMULATED"),))


def bare_google_rest(url: str) -> Call:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import vision

    client = vision.ImageAnnotatorClient(
        transport="rest", credentials=AnonymousCredentials(), client_options={"api_endpoint": url}
    )
    return google_call(client, (("x-goog-api-key", "EMULATED"),))


def google_call(client: Any, metadata: Sequence[tuple[str, str]]) -> Call:
    from google.cloud import vision

    feature = vision.Feature(type_=vision.Feature.Type.LABEL_DETECTION, max_results=10)

    def call(data: bytes) -> Any:
        request = vision.AnnotateImageRequest(image=vision.Image(content=data), features=[feature])
        return client.batch_annotate_images(requests=[request], metadata=metadata)

    return call


BARE = {
    "aws": bare_aws,
    "azure": bare_azure,
    "clarifai": bare_clarifai,
    "google": bare_google,
    "google (REST)": bare_google_rest,
}


def pictures(count: int) -> list[bytes]:
    """Distinct PNG files of about 100 kB."""
    y, x = np.mgrid[0:320, 0:320] / 320
    waves = np.stack([np.sin(9 * x + 4 * y + phase) for phase in (0, 2, 4)], axis=-1)
    smooth = 127 + 90 * waves + np.random.default_rng(0).normal(0, 2, (320, 320, 3))
    picture = np.clip(smooth, 0, 255).astype(np.uint8)
    made = []
    for number in range(count):
        picture[0, 0] = (number >> 16 & 255, number >> 8 & 255, number & 255)
        made.append(encode_png(picture))
    return made


def run_bare(call: Call, images: Sequence[bytes], concurrency: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(call, images))
    return len(images) / (time.perf_counter() - started)


def run_query(wire: str, url: str, images: Sequence[bytes], concurrency: int, folder: Path) -> float:
    name, settings = WIRES[wire]
    options = ProviderOptions(endpoint=url, emulated=True, concurrency=concurrency, settings=settings)
    provider = registry.adapter(name).create(options)
    questions = [Question(hashlib.sha256(i).hexdigest(), "x", lambda i=i: i) for i in images]  # type: ignore[misc]
    with ResponseStore.open(folder / f"{time.monotonic_ns()}.sqlite") as store:
        engine = Engine(provider, store, Key("speed", name, "emulated", "{}"), concurrency=concurrency)
        started = time.perf_counter()
        report = engine.run(questions)
        seconds = time.perf_counter() - started
    provider.close()
    assert report.answered == len(images), report
    return len(images) / seconds


def measure(wire: str, arguments: argparse.Namespace, folder: Path) -> None:
    name, settings = WIRES[wire]
    kind = registry.adapter(name).wire(replace(ProviderOptions(), settings=settings)).value
    command = [sys.executable, "-c", SERVE.format(provider=name, kind=kind)]
    images = pictures(arguments.calls)
    bare, query = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        assert emulator.stdout is not None
        url = emulator.stdout.readline().strip()
        call = BARE[wire](url)
        run_bare(call, images, arguments.concurrency)  # the emulator remembers every image from here on
        for _ in range(arguments.rounds):
            bare.append(run_bare(call, images, arguments.concurrency))
            query.append(run_query(wire, url, images, arguments.concurrency, folder))
        emulator.terminate()
    slow, fast = statistics.median(query), statistics.median(bare)
    spread = ", ".join(f"{q:.0f}/{b:.0f}" for q, b in zip(query, bare, strict=True))
    print(f"| {wire} | {slow:.0f} | {fast:.0f} | {slow / fast:.2f} | {spread} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wire", choices=WIRES, action="append")
    arguments = parser.parse_args()
    print("| wire | apibench query, calls/s | bare SDK, calls/s | ratio | each round |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for wire in arguments.wire or WIRES:
            measure(wire, arguments, Path(folder))


if __name__ == "__main__":
    main()
