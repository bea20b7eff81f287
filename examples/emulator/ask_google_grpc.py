"""Google Cloud Vision, asked with google-cloud-vision over gRPC: a channel without TLS, and the API key as metadata."""

from __future__ import annotations

from io import BytesIO
from urllib.parse import urlsplit

import grpc
from google.cloud import vision
from google.cloud.vision_v1.services.image_annotator.transports import ImageAnnotatorGrpcTransport
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")

with Emulator(providers=["google"], answerer=Answerer.random(), accepted_keys=["EMULATED"]) as emulator:
    with grpc.insecure_channel(urlsplit(emulator.grpc_url).netloc) as channel:
        client = vision.ImageAnnotatorClient(transport=ImageAnnotatorGrpcTransport(channel=channel))
        request = vision.AnnotateImageRequest(
            image=vision.Image(content=picture.getvalue()),
            features=[vision.Feature(type_=vision.Feature.Type.LABEL_DETECTION, max_results=5)],
        )
        reply = client.batch_annotate_images(
            requests=[request], metadata=[("x-goog-api-key", "EMULATED")], retry=None, timeout=10
        )
    (response,) = reply.responses
    for label in response.label_annotations:
        print(f"{label.score:6.4f} {label.description}")
    print("answered by", response.context.uri)
    print("billed:", dict(emulator.bill))
