"""Azure Image Analysis 4.0, asked with azure-ai-vision-imageanalysis: an endpoint and a key, on the same port as 3.2."""

from __future__ import annotations

from io import BytesIO

from azure.ai.vision.imageanalysis import ImageAnalysisClient
from azure.ai.vision.imageanalysis.models import VisualFeatures
from azure.core.credentials import AzureKeyCredential
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")

with Emulator(providers=["azure"], answerer=Answerer.random(), accepted_keys=["EMULATED"]) as emulator:
    with ImageAnalysisClient(emulator.url, AzureKeyCredential("EMULATED"), retry_total=0) as client:
        reply = client.analyze(image_data=picture.getvalue(), visual_features=[VisualFeatures.TAGS])
    for tag in reply.tags.list[:5]:
        print(f"{tag.confidence:6.4f} {tag.name}")
    print("answered by", reply.model_version)
    print("billed:", dict(emulator.bill))
