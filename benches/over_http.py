#!/usr/bin/env python3
"""Measures `esker serve`: what HTTP adds to a warm search, single and bulk upserts, many clients at once.

Run it through benches/run.sh. The client is a blocking socket that sends bytes made before and reads until the reply is
complete; it is decoded after the clock stopped. What such a client costs by itself is measured, too: /healthz.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
K = 10
JSON, AVRO, FRAMED = "application/json", "application/avro", "application/x-esker-avro"
ARROW = "application/vnd.apache.arrow.stream"
# The largest batches of 768 floats that a request may have.
BATCH, WIDE = 5_000, 768


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def request(method, path, body=b"", kind=JSON):
    """The bytes of a request."""
    body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """A connection that is kept alive."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        """Status, body, and seconds from the first byte sent to the last one read."""
        began = time.perf_counter()
        self.socket.sendall(data)
        reply = self.socket.recv(1 << 16)
        while (end := reply.find(b"\r\n\r\n")) < 0:
            reply += self.more()
        at = reply.find(b"content-length: ", 0, end) + 16
        assert at >= 16, reply[:end]
        wanted = end + 4 + int(reply[at : reply.index(b"\r", at)])
        while len(reply) < wanted:
            reply += self.more()
        return int(reply[9:12]), reply[end + 4 :], time.perf_counter() - began

    def more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("closed in the middle of a reply")
        return data

    def ask(self, method, path, body=b"", kind=JSON):
        status, reply, took = self.send(request(method, path, body, kind))
        if status not in (200, 201):
            sys.exit(f"error: {method} {path} is answered {status}: {reply[:500]}")
        return json.loads(reply), took


def percentiles(seconds):
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "n": len(ordered)}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(esker, store):
    """A server on a store; its port."""
    port = free_port()
    addresses = ["--http", f"127.0.0.1:{port}", "--grpc", f"127.0.0.1:{free_port()}"]
    command = [esker, "serve", "--store", store, *addresses]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "ESKER_LOG": "warn"}) as server:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    if Connection(port).send(request("GET", "/readyz"))[0] == 200:
                        break
                time.sleep(0.05)
            yield port
        finally:
            server.terminate()


def run(esker, store, *arguments):
    done = subprocess.run([esker, "--store", store, "--format", "json", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {arguments}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def searches(esker, store, dataset, port, rounds, count):
    """The same queries in the engine (`esker eval`) and over HTTP, in turns."""
    column = pq.read_table(dataset / "queries.parquet")["vector"].combine_chunks()
    queries = np.asarray(column.flatten()).reshape(len(column), -1).astype(np.float32)[:count]
    body = lambda q, c: {"vector": [float(x) for x in q], "k": K, "include": [], "consistency": c}
    path = "/v1/collections/deb/search"
    sent = {c: [request("POST", path, body(q, c)) for q in queries] for c in ("strong", "eventual")}
    connection, runs = Connection(port), []
    connection.ask("POST", "/v1/collections/deb/warm")
    for _ in range(rounds):
        done = run(esker, store, "eval", "deb", dataset / "queries.parquet", "-k", K, "--limit", count)
        figures = {"engine_strong": done["p50_ms"], "engine_memory": done["memory"]["p50_ms"]}
        for consistency, requests in sent.items():
            times, took = [], []
            for data in requests:
                status, reply, seconds = connection.send(data)
                reply = json.loads(reply)
                assert status == 200 and len(reply["hits"]) == K, reply
                times.append(seconds)
                took.append(reply["took_ms"] / 1000)
            figures[f"http_{consistency}"] = percentiles(times)["p50_ms"]
            figures[f"http_{consistency}_p99"] = percentiles(times)["p99_ms"]
            figures[f"took_{consistency}"] = percentiles(took)["p50_ms"]
        times = [connection.send(request("GET", "/healthz"))[2] for _ in range(1000)]
        figures["healthz"] = percentiles(times)["p50_ms"]
        say(", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        runs.append(figures)
    medians = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    return {
        **medians,
        "rounds": rounds,
        "queries": count,
        "added_strong_ms": statistics.median(r["http_strong"] - r["engine_strong"] for r in runs),
        "added_memory_ms": statistics.median(r["http_eventual"] - r["engine_memory"] for r in runs),
    }


def record(number, vector):
    return {"id": f"row-{number}", "vector": [float(x) for x in vector], "metadata": {"number": number}}


def single(port, dimension, count):
    """One row a request, one after the other; each is durable when it is answered."""
    connection, pick = Connection(port), np.random.default_rng(1)
    connection.ask("POST", "/v1/collections", {"name": "single", "dimension": dimension, "metadata": {"number": "int"}})
    vectors = pick.standard_normal((count, dimension), dtype=np.float32)
    path = "/v1/collections/single/records"
    took = [connection.ask("POST", path, {"records": [record(n, v)]})[1] for n, v in enumerate(vectors)]
    return percentiles(took)


def arrow(first, vectors):
    ids = pa.array([f"row-{first + n}" for n in range(len(vectors))])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"id": ids, "vector": column, "number": pa.array(range(first, first + len(vectors)), pa.int64())})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def avro_records(first, vectors):
    base = {"collection_id": "", "timestamp": 0, "created_at": 0, "updated_at": 0, "expires_at": None, "version": 1}
    absent = {"rank": None, "score": None, "distance": None}
    return [{**record(first + n, v), **base, **absent} for n, v in enumerate(vectors.tolist())]


SCHEMA = fastavro.parse_schema(json.loads((ROOT / "crates/format/src/record.avsc").read_text("utf-8")))


def container(first, vectors):
    sink = io.BytesIO()
    fastavro.writer(sink, SCHEMA, avro_records(first, vectors))
    return sink.getvalue()


def framed(first, vectors):
    sink = io.BytesIO()
    sink.write(struct.pack(">II", 1, 6) + b"upsert")
    for r in avro_records(first, vectors):
        fastavro.schemaless_writer(sink, SCHEMA, r)
    return sink.getvalue()


def as_json(first, vectors):
    return json.dumps({"records": [record(first + n, v) for n, v in enumerate(vectors.tolist())]}).encode()


ENCODINGS = (
    ("Arrow", ARROW, arrow),
    ("Avro container", AVRO, container),
    ("framed Avro", FRAMED, framed),
    ("JSON", JSON, as_json),
)


def bulk(port, batches, connections):
    """Rows a second of each encoding, by one and by several connections; bodies are made before."""
    pick, rows = np.random.default_rng(2), []
    vectors = [pick.standard_normal((BATCH, WIDE), dtype=np.float32) for _ in range(batches)]
    for name, kind, encode in ENCODINGS:
        collection = name.lower().replace(" ", "-")
        setup = {"name": collection, "dimension": WIDE, "metadata": {"number": "int"}}
        Connection(port).ask("POST", "/v1/collections", setup)
        # JSON is longer than a request may be, unless it has fewer rows.
        size = BATCH if kind != JSON else BATCH // 5
        path = f"/v1/collections/{collection}/records"
        cut = [(i * BATCH + at, v[at : at + size]) for i, v in enumerate(vectors) for at in range(0, BATCH, size)]
        bodies = [request("POST", path, encode(first, v), kind) for first, v in cut]
        for clients in (1, connections):
            seconds = together(port, bodies, clients)
            rate = batches * BATCH / seconds
            say(f"{name}, {clients} connections: {rate:,.0f} rows/s")
            row = {"encoding": name, "connections": clients, "rows": batches * BATCH, "rows_per_s": rate}
            rows.append({**row, "mb_per_s": sum(map(len, bodies)) / 1e6 / seconds})
        after = Connection(port)
        counted = after.ask("POST", f"/v1/collections/{collection}/records/count", {})[0]["count"]
        assert counted == batches * BATCH, f"{collection} has {counted} rows"
        after.ask("DELETE", f"/v1/collections/{collection}")
    return rows


def together(port, bodies, clients):
    """Seconds that it takes to have all acknowledged."""
    failures = []

    def send(mine):
        connection = Connection(port)
        for data in mine:
            while (answer := connection.send(data))[0] == 429:
                time.sleep(0.05)
            if answer[0] != 200:
                failures.append(answer[1][:500])
                return

    threads = [threading.Thread(target=send, args=(bodies[n::clients],)) for n in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"error: {failures[0]}")
    return time.perf_counter() - began


def crowd(port, dataset, clients, seconds):
    """Clients that search, read, upsert and delete as fast as they can. Every answer but 200 is an error."""
    column = pq.read_table(dataset / "queries.parquet")["vector"].combine_chunks()
    queries = np.asarray(column.flatten()).reshape(len(column), -1).astype(np.float32)[:100].tolist()
    base = "/v1/collections/deb"
    search = [request("POST", f"{base}/search", {"vector": q, "k": K, "include": []}) for q in queries]
    lock, times, errors = threading.Lock(), {}, {}
    end = time.perf_counter() + seconds

    def client(number):
        pick, mine, failed = random.Random(number), {}, {}
        try:
            connection = Connection(port)
            while time.perf_counter() < end:
                kind = pick.choices(["search", "get", "upsert", "delete"], [75, 10, 12, 3])[0]
                ids = [f"crowd-{pick.randrange(2000)}"]
                if kind == "search":
                    data = pick.choice(search)
                elif kind == "get":
                    data = request("POST", f"{base}/records/get", {"ids": ids})
                elif kind == "upsert":
                    data = request("POST", f"{base}/records", {"records": [{"id": ids[0], "vector": pick.choice(queries)}]})
                else:
                    data = request("DELETE", f"{base}/records", {"ids": ids})
                status, reply, took = connection.send(data)
                mine.setdefault(kind, []).append(took)
                if status != 200:
                    failed.setdefault(f"{kind} {status} {reply[:200]}", []).append(took)
        except (OSError, AssertionError) as e:
            failed.setdefault(repr(e), []).append(0)
        with lock:
            for into, of in ((times, mine), (errors, failed)):
                for key, values in of.items():
                    into.setdefault(key, []).extend(values)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error, values in errors.items():
        say(f"{len(values)} × {error}")
    return {
        "clients": clients,
        "seconds": seconds,
        "requests_per_s": sum(map(len, times.values())) / seconds,
        "errors": sum(map(len, errors.values())),
        "by_kind": {kind: percentiles(values) for kind, values in sorted(times.items())},
    }


def machine():
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "")
    today = datetime.date.today().isoformat()
    return {"cores": os.cpu_count(), "cpu": model, "load_average": os.getloadavg()[0], "date": today}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--esker", type=Path, default=ROOT / "target/release/esker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--upserts", type=int, default=500)
    parser.add_argument("--batches", type=int, default=6, help=f"of {BATCH} rows")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/http.json")
    args = parser.parse_args()
    result = {"machine": machine(), "k": K}
    with tempfile.TemporaryDirectory() as store:
        into = ["--into", "deb", "--vector-type", "f16", "--compact"]
        run(args.esker, store, "import", args.dataset / "base.parquet", *into)
        with serving(args.esker, store) as port:
            result["search"] = searches(args.esker, store, args.dataset, port, args.rounds, args.queries)
            result["upsert"] = single(port, 384, args.upserts)
            say(f"one row, durable: p50 {result['upsert']['p50_ms']:.2f} ms")
            result["bulk"] = bulk(port, args.batches, 4)
            result["crowd"] = crowd(port, args.dataset, args.clients, args.seconds)
            say(f"{args.clients} clients: {result['crowd']['requests_per_s']:,.0f}/s, {result['crowd']['errors']} errors")
    result["machine"]["load_average_after"] = os.getloadavg()[0]
    args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
