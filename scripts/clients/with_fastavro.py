"""fastavro: a container of another writer schema in, a container out; framed records in."""

import io
import struct

import fastavro
import requests

from common import DIMENSION, HTTP, done, row, same

AVRO, FRAMED = "application/avro", "application/x-esker-avro"
# Fewer fields, shorter integers, fewer types of values: Avro's rules resolve it against the server's schema.
WRITER = {
    "type": "record",
    "name": "Page",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "collection_id", "type": "string", "default": ""},
        {"name": "vector", "type": {"type": "array", "items": "float"}},
        {"name": "metadata", "type": {"type": "map", "values": ["null", "int", "string"]}},
        {"name": "timestamp", "type": "int", "default": 0},
        {"name": "created_at", "type": "long", "default": 0},
        {"name": "updated_at", "type": "long", "default": 0},
    ],
}


def call(path, status=200, **arguments):
    reply = requests.post(f"{HTTP}/v1{path}", timeout=30, **arguments)
    assert reply.status_code in (status, 201), f"{path}: {reply.status_code}: {reply.text}"
    return reply


def record(n):
    r = row(n)
    return {"id": r["id"], "vector": r["vector"], "metadata": {"topic": r["metadata"]["topic"], "year": r["metadata"]["year"]}}


def upsert(body, kind, count):
    reply = call("/collections/avros/records", data=body, headers={"content-type": kind})
    same(reply.json()["upserted"], count, f"upserted as {kind}")


call("/collections", json={"name": "avros", "dimension": DIMENSION, "metric": "dot"})
sink = io.BytesIO()
fastavro.writer(sink, WRITER, [record(n) for n in range(120)], codec="deflate")
upsert(sink.getvalue(), AVRO, 120)


def out():
    reply = call("/collections/avros/records/scan", json={"limit": 1000, "include_vector": True}, headers={"accept": AVRO})
    return fastavro.reader(io.BytesIO(reply.content))


reader = out()
records = {r["id"]: r for r in reader}
same(len(records), 120, "records of the container")
for n in range(120):
    wanted, found = record(n), records[f"page-{n:04}"]
    same((found["vector"], found["metadata"]), (wanted["vector"], wanted["metadata"]), wanted["id"])

# The server's own schema, which the container gave, frames records that are stored as they are.
block = io.BytesIO()
for n in range(120, 150):
    # Results' fields are set in what was read; a write leaves them null.
    r = dict(records["page-0000"], **record(n), rank=None, score=None, distance=None)
    fastavro.schemaless_writer(block, reader.writer_schema, r)
operation = b"upsert"
upsert(struct.pack(">II", 1, len(operation)) + operation + block.getvalue(), FRAMED, 30)
same(len(list(out())), 150, "records after the framed batch")
bad = call("/collections/avros/records", 400, data=b"\0\0\0\1\0\0", headers={"content-type": FRAMED})
same(bad.json()["error"]["kind"], "invalid", "a frame cut short")
requests.delete(f"{HTTP}/v1/collections/avros", timeout=30)
done(fastavro.__version__, "a deflated container of another schema in, a container out, framed records in")
