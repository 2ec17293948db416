"""pyarrow: records in as an Arrow IPC stream; records, hits and SQL out as one."""

import io

import pyarrow as pa
import requests

from common import DIMENSION, HTTP, done, row, same

ARROW = "application/vnd.apache.arrow.stream"


def call(path, status=200, **arguments):
    reply = requests.post(f"{HTTP}/v1{path}", timeout=30, **arguments)
    assert reply.status_code in (status, 201), f"{path}: {reply.status_code}: {reply.text}"
    return reply


def arrow(reply):
    same(reply.headers["content-type"], ARROW, "the type of the reply")
    return pa.ipc.open_stream(reply.content).read_all()


rows = [row(n) for n in range(250)]
call("/collections", json={"name": "arrows", "dimension": DIMENSION, "metric": "cosine"})
vectors = pa.FixedSizeListArray.from_arrays(pa.array([x for r in rows for x in r["vector"]], pa.float32()), DIMENSION)
columns = {key: pa.array([r["metadata"][key] for r in rows]) for key in ("topic", "year", "rating", "tags")}
table = pa.table({"id": [r["id"] for r in rows], "vector": vectors, **columns})
sink = io.BytesIO()
with pa.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table, max_chunksize=100)
put = call("/collections/arrows/records", data=sink.getvalue(), headers={"content-type": ARROW}).json()
same(put["upserted"], 250, "upserted")

scanned = arrow(call("/collections/arrows/records/scan", json={"limit": 1000, "include_vector": True}, headers={"accept": ARROW}))
found = {r["id"]: r for r in scanned.to_pylist()}
same(len(found), 250, "scanned rows")
for r in rows:
    same(found[r["id"]]["vector"], r["vector"], f"the vector of {r['id']}")
    for key in ("topic", "year", "rating"):
        same(found[r["id"]][key], r["metadata"][key], f"{key} of {r['id']}")
hits = arrow(call("/collections/arrows/search", json={"like": "page-0011", "k": 4}, headers={"accept": ARROW}))
same((hits.num_rows, hits["id"][0].as_py()), (4, "page-0011"), "hits")
sql = {"query": "SELECT topic, count(*) AS n FROM arrows GROUP BY topic ORDER BY topic"}
groups = arrow(call("/sql", json=sql, headers={"accept": ARROW})).to_pylist()
same([g["n"] for g in groups], [83, 84, 83], "rows by topic")
requests.delete(f"{HTTP}/v1/collections/arrows", timeout=30)
done(pa.__version__, "250 rows in as Arrow IPC; scan, search and SQL out as Arrow IPC")
