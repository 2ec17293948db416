"""requests: upserts, an idempotent retry, search against brute force, patch, delete by filter, scan, compact. Leaves the
collection `pages` for the scripts that read its files."""

import json

import requests

from common import DIMENSION, EXPECTED, HTTP, done, float32, nearest, row, same

session = requests.Session()


def call(method, path, status=200, **arguments):
    reply = session.request(method, f"{HTTP}/v1{path}", timeout=30, **arguments)
    assert reply.status_code == status, f"{method} {path}: {reply.status_code}: {reply.text}"
    return reply


reply = session.post(f"{HTTP}/v1/collections", json={"name": "pages", "dimension": DIMENSION, "metric": "l2"}, timeout=30)
assert reply.ok, reply.text
rows = {r["id"]: r for r in map(row, range(400))}
items = list(rows.values())
for start in range(0, 400, 100):
    body = {"records": items[start : start + 100]}
    key = {"Idempotency-Key": f"batch-{start}"}
    first = call("POST", "/collections/pages/records", json=body, headers=key).json()
    again = call("POST", "/collections/pages/records", json=body, headers=key).json()
    same((first["upserted"], again["position"]), (100, first["position"]), "a retry under the same key")

call("POST", "/collections/pages/records", 409, json={"records": [items[0]], "if_absent": True})
patch = {"records": [{"id": "page-0007", "metadata": {"topic": "patched"}}]}
same(call("PATCH", "/collections/pages/records", json=patch).json()["patched"], 1, "patched")
patched = call("GET", "/collections/pages/records/page-0007").json()["metadata"]
same(patched["topic"], "patched", "the patched topic")
rows["page-0007"]["metadata"] = patched
gone = [id for id, r in rows.items() if r["metadata"]["year"] < 1910]
deleted = call("DELETE", "/collections/pages/records", json={"filter": "year < 1910"}).json()
same(deleted["deleted"], len(gone), "deleted by filter")
rows = {id: r for id, r in rows.items() if id not in gone}


def check():
    for number in (3, 77, 250):
        vector = row(number)["vector"]
        ask = {"vector": vector, "k": 7, "min_recall": 1.0, "filter": {"topic": {"$eq": "music"}}, "min_position": deleted["position"]}
        hits = call("POST", "/collections/pages/search", json=ask).json()["hits"]
        music = [r for r in rows.values() if r["metadata"].get("topic") == "music"]
        same([h["id"] for h in hits], nearest(music, vector, 7), f"the nearest of {number}")
    scanned, cursor = {}, None
    while True:
        page = call("POST", "/collections/pages/records/scan", json={"limit": 150, "cursor": cursor, "include_vector": True}).json()
        scanned.update({r["id"]: r for r in page["records"]})
        cursor = page["cursor"]
        if cursor is None:
            break
    same(scanned.keys(), rows.keys(), "scanned ids")
    for id, r in scanned.items():
        # JSON has the shortest text that is the same binary32.
        same([float32(x) for x in r["vector"]], rows[id]["vector"], f"the vector of {id}")


check()
call("POST", "/collections/pages/compact")
check()
same(call("POST", "/collections/pages/records/count", json={}).json()["count"], len(rows), "count")
sql = {"query": "SELECT count(*) AS n FROM pages WHERE year >= $1", "params": [1950]}
wanted = sum(r["metadata"]["year"] >= 1950 for r in rows.values())
same(call("POST", "/sql", json=sql).json()["rows"], [{"n": wanted}], "SQL")
EXPECTED.write_text(json.dumps(rows))
done(requests.__version__, "JSON in and out, retry, patch, delete by filter, scan, search = brute force, compact, SQL")
