"""Google Cloud Vision, asked with google-cloud-vision over REST: an endpoint with its scheme, and an API key."""

from __future__ import annotations

from io import BytesIO

from google.cloud import vision
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")

with Emulator(providers=["google"], answerer=Answerer.random(), accepted_keys=["EMULATED"]) as emulator:
    client = vision.ImageAnnotatorClient(
        transport="rest", client_options={"api_endpoint": emulator.url, "api_key": "EMULATED"}
    )
    request = vision.AnnotateImageRequest(
        image=vision.Image(content=picture.getvalue()),
        features=[vision.Feature(type_=vision.Feature.Type.LABEL_DETECTION, max_results=5)],
    )
    reply = client.batch_annotate_images(requests=[request], retry=None, timeout=10)
    (response,) = reply.responses
    for label in response.label_annotations:
        print(f"{label.score:6.4f} {label.description}")
    print("answered by", response.context.uri)
    print("billed:", dict(emulator.bill))
