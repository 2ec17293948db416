"""A large body in a small function: it is put under a signed URL, then committed event by event until all of it is in. Says how
long each commit took, what it read and what the process held; counts the rows at the end.

  large.py ENDPOINT BUCKET [--mib 256] [--type json|ndjson] [--dimension 384] [--memory 512] [--cpus 0.29]

ENDPOINT is a store with a delay of its own (`s3-server --latency-ms 20`). With --cpus the process runs for that share of each tenth
of a second on one core, as a function of 512 MB does with 0.29 of one.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import writers
from stage import event

COLLECTION = "large"
TYPES = {"json": "application/json", "ndjson": "application/x-ndjson"}
PERIOD = 0.1


def body(args) -> tuple[bytes, int]:
    """At most so many bytes of records, and how many records those are."""
    most, between = args.mib << 20, b",\n" if args.type == "json" else b"\n"
    head, tail = (b'{"records": [', b"]}") if args.type == "json" else (b"", b"\n")
    vector = ", ".join(f"{(n * 2654435761 % 2**32) / 2**32:.7f}" for n in range(args.dimension))
    out, rows = bytearray(head), 0
    while True:
        record = f'{{"id": "row-{rows:08}", "vector": [{vector}], "metadata": {{"n": {rows}}}}}'.encode()
        if len(out) + len(record) + len(between) + len(tail) > most:
            return bytes(out) + tail, rows
        out += (between if rows else b"") + record
        rows += 1


def request(path: str, content: dict) -> dict:
    e = event("v2")
    e["rawPath"], e["body"], e["isBase64Encoded"] = path, json.dumps(content), False
    e["headers"]["content-type"] = "application/json"
    e["requestContext"]["http"] |= {"method": "POST", "path": path}
    return e


class Commits:
    """Events, one after the other: an upload, then its commit until it is done."""

    def __init__(self, args):
        self.args, self.ended, self.platform = args, threading.Event(), None
        self.place, self.rows, self.bytes, self.began = None, 0, 0, 0.0

    def replies(self) -> list[dict]:
        return [json.loads(w[3]["body"]) | {"status": w[3]["statusCode"], "took": w[2]} for w in self.platform.writes]

    def make(self, _: str) -> dict:
        where = f"/v1/collections/{COLLECTION}/uploads"
        replies = self.replies()
        if not replies:
            return request(where, {})
        if self.place is None:
            self.place = replies[0]
            content, self.rows = body(self.args)
            self.bytes = len(content)
            with urllib.request.urlopen(urllib.request.Request(self.place["url"], content, method="PUT"), timeout=300):
                pass
            self.began = time.monotonic()
        elif replies[-1].get("done") or replies[-1]["status"] not in (200, 429, 503) or len(replies) > self.args.commits:
            self.ended.set()
            time.sleep(3600)
        return request(f"{where}/{self.place['token']}/commit", {"content_type": TYPES[self.args.type]})


def share(pid: int, cpus: float, ended: threading.Event) -> None:
    """Lets a process run for its share of each period, on one core."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {0})
    try:
        while not ended.is_set():
            os.kill(pid, signal.SIGCONT)
            time.sleep(PERIOD * cpus)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(PERIOD * (1 - cpus))
    except ProcessLookupError:
        pass


def peak(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) >> 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("bucket")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--type", choices=TYPES, default="json")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--memory", type=int, default=512)
    parser.add_argument("--cpus", type=float, default=1.0)
    parser.add_argument("--commits", type=int, default=40)
    args = parser.parse_args()
    store = f"s3://{args.bucket}/large-{os.getpid()}"
    settings = ["--dimension", str(args.dimension), "--metric", "l2"]
    writers.esker(store, args.endpoint, "collection", "create", COLLECTION, *settings)
    commits = Commits(args)
    platform = commits.platform = writers.Platform(commits.make)
    with tempfile.TemporaryDirectory() as folder:
        process = writers.start(0, platform.server_port, store, args.endpoint, Path(folder), args.memory)
        try:
            platform.ready.acquire(timeout=60)
            platform.end = time.monotonic() + 1e6
            if args.cpus < 1:
                threading.Thread(target=share, args=(process.pid, args.cpus, commits.ended), daemon=True).start()
            platform.go.set()
            commits.ended.wait()
            seconds, held = time.monotonic() - commits.began, peak(process.pid)
        finally:
            commits.ended.set()
            process.kill()
            process.wait()
        lines = [json.loads(line) for line in (Path(folder) / "0.log").read_text().splitlines()]
    report(args, store, commits, [line for line in lines if line.get("target") == "esker::request"], seconds, held)


def report(args, store: str, commits: Commits, lines: list[dict], seconds: float, held: int) -> None:
    replies = commits.replies()
    for n, (reply, line) in enumerate(zip(replies[1:], lines[1:]), 1):
        read, asked = line.get("bytes_read") or 0, sum(line.get(k) or 0 for k in ("gets", "lists", "puts"))
        what = f"{reply['upserted']} rows, done {reply['done']}" if "upserted" in reply else json.dumps(reply["error"])
        print(f"   commit {n}: {reply['status']} in {reply['took']:.1f} s, {read / (1 << 20):.1f} MiB read, {asked} requests, {what}")
    print(f"{args.type}, {commits.bytes / (1 << 20):.0f} MiB, {commits.rows} rows of {args.dimension}: {len(replies) - 1} commits in {seconds:.0f} s, "
          f"{held} MiB held of {args.memory}, {args.cpus} of a core, load {os.getloadavg()[0]:.1f}")
    if not replies[-1].get("done"):
        sys.exit("WRONG: it is not done")
    count = writers.esker(store, args.endpoint, "sql", f"SELECT count(*) AS n FROM {COLLECTION}")["rows"][0]["n"]
    if count != commits.rows:
        sys.exit(f"WRONG: {count} rows are there of {commits.rows}")


main()
