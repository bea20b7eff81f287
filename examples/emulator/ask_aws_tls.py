"""TLS: the emulator writes the certificate of its own authority, and the client trusts that file and nothing else."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path

import boto3
from botocore.config import Config
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")

with tempfile.TemporaryDirectory() as folder:
    authority = Path(folder) / "ca.pem"
    with Emulator(providers=["aws"], answerer=Answerer.random(), tls=authority) as emulator:
        client = boto3.client(
            "rekognition",
            endpoint_url=emulator.url,  # https://127.0.0.1:...
            verify=str(authority),
            region_name="us-east-1",
            aws_access_key_id="EMULATED",
            aws_secret_access_key="emulated",  # noqa: S106 - it opens nothing
            config=Config(proxies={}),
        )
        reply = client.detect_labels(Image={"Bytes": picture.getvalue()}, MaxLabels=5, MinConfidence=1)
        print("answered by", reply["LabelModelVersion"])
        print("billed:", dict(emulator.bill))
