"""grpcio, without generated code: services and messages come from the server's reflection."""

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from common import GRPC, done, expected, nearest, row, same

channel = grpc.insecure_channel(GRPC)
database = ProtoReflectionDescriptorDatabase(channel)
services = set(database.get_services())
assert {"esker.v1.Ingest", "esker.v1.Query", "grpc.health.v1.Health"} <= services, services
pool = DescriptorPool(database)


def call(service, method, **fields):
    found = pool.FindServiceByName(f"esker.v1.{service}").FindMethodByName(method)
    request = json_format.ParseDict(fields, GetMessageClass(found.input_type)())
    kind = channel.unary_stream if found.server_streaming else channel.unary_unary
    invoke = kind(
        f"/esker.v1.{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(found.output_type).FromString,
    )
    reply = invoke(request, timeout=30)
    return list(reply) if found.server_streaming else reply


call("Ingest", "CreateCollection", name="grpcs", dimension=8, metric="l2")
rows = [row(n) for n in range(60)]
same(call("Ingest", "Upsert", collection="grpcs", records=rows).upserted, 60, "upserted")
hits = call("Query", "Search", collection="grpcs", vector=rows[9]["vector"], k=5, minRecall=1.0).results[0].hits
same([h.id for h in hits], nearest(rows, rows[9]["vector"], 5), "the nearest")
scanned = [r.id for part in call("Query", "Scan", collection="grpcs") for r in part.records]
same(sorted(scanned), [r["id"] for r in rows], "scanned")
same(call("Query", "Count", collection="pages").count, len(expected()), "the count of what requests wrote")
try:
    call("Query", "Count", collection="none")
    raise SystemExit("a collection that is not there was counted")
except grpc.RpcError as e:
    same(e.code(), grpc.StatusCode.NOT_FOUND, "the status for what is not there")
call("Ingest", "DropCollection", collection="grpcs")
done(grpc.__version__, f"reflection of {len(services)} services; upsert, search, scan, count, an error, drop")
