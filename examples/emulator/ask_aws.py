"""AWS Rekognition, asked with boto3: an endpoint, a region, and keys.

The emulator knows one key here, and verifies what is signed with it; without ``accepted_keys`` it takes any.
"""

from __future__ import annotations

from io import BytesIO

import boto3
from botocore.config import Config
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")

# Random labels need no network. Leave `answerer` out, and a real classifier answers.
with Emulator(providers=["aws"], answerer=Answerer.random(), accepted_keys=["EMULATED:emulated"]) as emulator:
    client = boto3.client(
        "rekognition",
        endpoint_url=emulator.url,
        region_name="us-east-1",
        aws_access_key_id="EMULATED",
        aws_secret_access_key="emulated",  # noqa: S106 - it opens nothing
        config=Config(proxies={}),
    )
    reply = client.detect_labels(Image={"Bytes": picture.getvalue()}, MaxLabels=5, MinConfidence=1)
    for label in reply["Labels"]:
        print(f"{label['Confidence']:6.2f} {label['Name']}")
    print("answered by", reply["LabelModelVersion"])
    print("billed:", dict(emulator.bill))
