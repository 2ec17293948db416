"""Many writers at once, each its own process of the ingest function with a platform of its own: commits/s, latency and requests of
each write; and through the queue path, where one process takes the messages of many in batches. Every acknowledged row must be
there, once.

  writers.py ENDPOINT BUCKET [--processes 200] [--seconds 20] [--queue MESSAGES_A_BATCH]

ENDPOINT is a store with a delay of its own (`s3-server --latency 20ms`), so that what is measured is waiting, not this machine.
"""

import argparse
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from stage import event

COLLECTION, DIMENSION = "docs", 8
# First writes of each process, which learn what later ones know.
COLD = 2


class Platform(http.server.ThreadingHTTPServer):
    """The runtime interface for all processes: `/N/…` is that of process N, which gets its next event when it asks."""

    daemon_threads, request_queue_size = True, 512

    def __init__(self, make):
        super().__init__(("127.0.0.1", 0), Interface)
        self.make, self.ready, self.go = make, threading.Semaphore(0), threading.Event()
        self.lock, self.writes, self.sent = threading.Lock(), [], {}
        self.end = 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Interface(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        n, platform = int(self.path.split("/")[1]), self.server
        state = platform.sent.setdefault(n, {"count": 0})
        if state["count"] == 0:
            platform.ready.release()
        platform.go.wait()
        if time.monotonic() >= platform.end:
            return time.sleep(3600)
        state["count"] += 1
        name = f"{n}-{state['count']}"
        body = json.dumps(platform.make(name)).encode()
        self.send_response(200)
        self.send_header("lambda-runtime-aws-request-id", name)
        self.send_header("lambda-runtime-deadline-ms", str(int(time.time() * 1000) + 30_000))
        self.send_header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:esker-ingest")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        state["began"] = time.monotonic()
        self.wfile.write(body)

    def do_POST(self):
        n, platform = int(self.path.split("/")[1]), self.server
        took = time.monotonic() - platform.sent[n]["began"]
        body = self.rfile.read(int(self.headers["content-length"])) if "content-length" in self.headers else self.chunks()
        with platform.lock:
            platform.writes.append((n, platform.sent[n]["count"], took, json.loads(body)))
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_):
        pass


def row(name: str) -> dict:
    return {"id": name, "vector": [float(hash(name) % 97)] * DIMENSION, "metadata": {"writer": name.split("-")[0]}}


def request(name: str) -> dict:
    e = event("v2")
    path = f"/v1/collections/{COLLECTION}/records"
    e["rawPath"], e["body"], e["isBase64Encoded"] = path, json.dumps({"records": [row(name)]}), False
    e["requestContext"]["http"] |= {"method": "POST", "path": path}
    return e


def messages(name: str, many: int) -> dict:
    records = []
    for n in range(many):
        record = event("sqs")
        record["messageId"], record["body"] = f"{name}-{n}", json.dumps({"records": [row(f"{name}-{n}")]})
        record["messageAttributes"] = {"collection": {"stringValue": COLLECTION, "dataType": "String"}}
        records.append(record)
    return {"Records": records}


def start(n: int, port: int, store: str, endpoint: str, log: Path, memory: int = 128) -> subprocess.Popen:
    env = {
        "PATH": os.environ["PATH"],
        "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{port}/{n}",
        "AWS_LAMBDA_FUNCTION_NAME": "esker-ingest",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "AWS_ENDPOINT_URL": endpoint,
        "ESKER_STORE": store,
        "TOKIO_WORKER_THREADS": "1",
    } | {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")}
    program = Path(os.environ["FUNCTIONS"]) / "esker-ingest"
    program = str(program / "bootstrap" if program.is_dir() else program)
    with open(log / f"{n}.log", "wb") as out:
        return subprocess.Popen([program], env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)


def percentile(values: list, share: float):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def esker(store: str, endpoint: str, *args: str):
    command = [os.environ["ESKER"], *args, "--store", store, "--format", "json"]
    done = subprocess.run(command, env=os.environ | {"AWS_ENDPOINT_URL": endpoint}, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.decode()}")
    return json.loads(done.stdout)


def judge(args, store: str, acknowledged: set[str]) -> int:
    """Compares what was acknowledged with the log; how many entries that took."""
    rows = esker(store, args.endpoint, "sql", f"SELECT id FROM {COLLECTION}")["rows"]
    there = {r["id"] for r in rows}
    entries = esker(store, args.endpoint, "wal", "show", COLLECTION)
    batches = [b for e in entries for b in e["batches"]]
    if missing := acknowledged - there:
        sys.exit(f"WRONG: {len(missing)} acknowledged rows are not there: {sorted(missing)[:3]}")
    # Every id is written by one event: a batch more than rows is one that is there twice.
    if sum(b["rows"] for b in batches) != len(there) or len({b["token"] for b in batches}) != len(batches):
        sys.exit(f"WRONG: {len(batches)} batches in the log, {len(there)} rows")
    if extra := len(there) - len(acknowledged):
        print(f"   {extra} more rows are there: of events that were not answered")
    return len(entries)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("bucket")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--queue", type=int, default=0)
    args = parser.parse_args()
    store = f"s3://{args.bucket}/writers-{os.getpid()}"
    esker(store, args.endpoint, "collection", "create", COLLECTION, "--dimension", str(DIMENSION), "--metric", "l2")
    make = (lambda name: messages(name, args.queue)) if args.queue else request
    platform = Platform(make)
    with tempfile.TemporaryDirectory() as folder:
        processes = [start(n, platform.server_port, store, args.endpoint, Path(folder)) for n in range(args.processes)]
        try:
            for _ in processes:
                if not platform.ready.acquire(timeout=60):
                    sys.exit("a process did not ask for an event: " + (Path(folder) / "0.log").read_text()[-500:])
            platform.end = time.monotonic() + args.seconds
            began = time.monotonic()
            platform.go.set()
            # What is under way is answered within the functions' own limit.
            time.sleep(args.seconds)
            for _ in range(300):
                if all(sum(w[0] == n for w in platform.writes) == s["count"] for n, s in platform.sent.items()):
                    break
                time.sleep(0.1)
            seconds = time.monotonic() - began
        finally:
            for process in processes:
                process.kill()
                process.wait()
        logs = [(Path(folder) / f"{n}.log").read_text().splitlines() for n in range(args.processes)]
    report(args, store, platform, [[json.loads(line) for line in log] for log in logs], seconds)


def report(args, store: str, platform: Platform, logs: list[list[dict]], seconds: float) -> None:
    acknowledged, refused = set(), {}
    for n, count, _, reply in platform.writes:
        name = f"{n}-{count}"
        if args.queue:
            again = {f["itemIdentifier"] for f in reply["batchItemFailures"]}
            acknowledged |= {f"{name}-{i}" for i in range(args.queue)} - again
            refused["again"] = refused.get("again", 0) + len(again)
        elif reply["statusCode"] == 200:
            acknowledged.add(name)
        else:
            refused[reply["statusCode"]] = refused.get(reply["statusCode"], 0) + 1
    entries = judge(args, store, acknowledged)
    warm = [took * 1000 for _, count, took, _ in platform.writes if count > COLD]
    asked = []
    for log in logs:
        requests = [line for line in log if line.get("target") == "esker::request"]
        warm_ones = requests[COLD * max(args.queue, 1):]
        asked += [sum(line.get(k) or 0 for k in ("gets", "lists", "puts")) for line in warm_ones if line["status"] == 200]
    how = f"{args.queue} messages a batch" if args.queue else "a request each"
    print(f"{args.processes} processes, {how}, {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(f"{entries} commits, {entries / seconds:.1f}/s; {len(acknowledged)} writes, {len(acknowledged) / seconds:.1f}/s; not taken: {refused}")
    if warm:
        print(f"event p50 {percentile(warm, 0.5):.0f} ms, p99 {percentile(warm, 0.99):.0f} ms, longest {max(warm):.0f} ms, of {len(warm)} warm")
    if asked:
        print(f"requests a write {statistics.mean(asked):.2f}; every acknowledged row is there once")


if __name__ == "__main__":
    main()
