"""Clarifai, asked with clarifai-grpc: a channel without TLS to the emulator's gRPC port, and a token."""

from __future__ import annotations

from io import BytesIO
from urllib.parse import urlsplit

from clarifai_grpc.channel.clarifai_channel import ClarifaiChannel
from clarifai_grpc.grpc.api import resources_pb2, service_pb2, service_pb2_grpc
from PIL import Image

from apibench.emulator import Answerer, Emulator

picture = BytesIO()
Image.radial_gradient("L").save(picture, "PNG")

with Emulator(providers=["clarifai"], answerer=Answerer.random(), accepted_keys=["EMULATED"]) as emulator:
    at = urlsplit(emulator.grpc_url)
    channel = ClarifaiChannel.get_insecure_grpc_channel(base=at.hostname, port=at.port)
    request = service_pb2.PostModelOutputsRequest(
        user_app_id=resources_pb2.UserAppIDSet(user_id="clarifai", app_id="main"),
        model_id="general-image-recognition",
        inputs=[resources_pb2.Input(data=resources_pb2.Data(image=resources_pb2.Image(base64=picture.getvalue())))],
    )
    reply = service_pb2_grpc.V2Stub(channel).PostModelOutputs(
        request, metadata=(("authorization", "Key EMULATED"),), timeout=10
    )
    (output,) = reply.outputs
    for concept in output.data.concepts[:5]:
        print(f"{concept.value:6.4f} {concept.name}")
    print("answered by", output.model.model_version.id)
    print("billed:", dict(emulator.bill))
