#!/usr/bin/env python3
"""Talks to a running server with nothing but what it says of itself: no generated code, only reflection.

    pip install grpcio grpcio-reflection
    scripts/clients/grpc_client.py [127.0.0.1:5679]
"""
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:5679")
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def call(service, rpc, **request):
    """One call, the request and the reply as plain objects; a list of replies where the server streams."""
    method = pool.FindServiceByName(f"esker.v1.{service}").FindMethodByName(rpc)
    encode = lambda message: message.SerializeToString()
    decode = GetMessageClass(method.output_type).FromString
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    message = json_format.ParseDict(request, GetMessageClass(method.input_type)())
    reply = kind(f"/esker.v1.{service}/{rpc}", encode, decode)(message, timeout=30)
    plain = lambda m: json_format.MessageToDict(m, preserving_proto_field_name=True)
    return [plain(m) for m in reply] if method.server_streaming else plain(reply)


print(call("Ingest", "CreateCollection", name="clients", dimension=2, metric="l2"))
records = [{"id": "a", "vector": [0, 1], "metadata": {"year": 2024}}, {"id": "b", "vector": [1, 0]}]
print(call("Ingest", "Upsert", collection="clients", records=records))
for hit in call("Query", "Search", collection="clients", vector=[0, 0.9], k=2)["results"][0]["hits"]:
    print(hit["rank"], hit["id"], hit["distance"], hit.get("metadata"))
print(call("Query", "Scan", collection="clients", filter={"sql": "year = 2024"})[0]["records"][0]["id"])
try:
    call("Query", "Count", collection="clients", filter={"sql": "yaer = 2024"})
except grpc.RpcError as e:
    trailers = {k: v for k, v in e.trailing_metadata() if k.startswith("esker-")}
    print(e.code().name, e.details(), trailers)
print(call("Ingest", "DropCollection", collection="clients"))
