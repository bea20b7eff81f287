"""Azure Computer Vision 3.2, asked with azure-cognitiveservices-vision-computervision: an endpoint and a key."""

from __future__ import annotations

from io import BytesIO

from azure.cognitiveservices.vision.computervision import ComputerVisionClient
from msrest.authentication import CognitiveServicesCredentials
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")
picture.seek(0)

with Emulator(providers=["azure"], answerer=Answerer.random(), accepted_keys=["EMULATED"]) as emulator:
    with ComputerVisionClient(emulator.url, CognitiveServicesCredentials("EMULATED")) as client:
        reply = client.tag_image_in_stream(picture)
    for tag in reply.tags[:5]:
        print(f"{tag.confidence:6.4f} {tag.name}")
    print("answered by", reply.model_version)
    print("billed:", dict(emulator.bill))
