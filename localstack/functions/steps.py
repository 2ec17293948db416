"""A compaction in steps: the compactor function is woken with little time and little memory, and killed at random moments, until
nothing is left to do.

  steps.py ENDPOINT STORE COLLECTION [--deadline 5] [--memory 512] [--kill 0.25] [--seed 1] [--threads 2]

Stands for the platform: a mark of a merge that is put is told of once, an event that fails or is killed comes twice more, and where
nothing is told of there is a tick. Prints what became of each invocation, at the end how many there were of each kind, how many
were killed, the greatest resident memory of any process, and how far any reply was beyond the deadline (none should be).
"""

import argparse
import collections
import http.server
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from xml.etree import ElementTree

from stage import event


class Interface(http.server.BaseHTTPRequestHandler):
    """The runtime interface: one event at a time."""

    protocol_version = "HTTP/1.1"
    events, replies = queue.Queue(), queue.Queue()

    def do_GET(self):
        name, body, deadline = Interface.events.get()
        self.send_response(200)
        self.send_header("lambda-runtime-aws-request-id", name)
        self.send_header("lambda-runtime-deadline-ms", str(deadline))
        self.send_header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:esker-compactor")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        if "content-length" in self.headers:
            body = self.rfile.read(int(self.headers["content-length"]))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        Interface.replies.put((self.path.split("/")[-2], self.path.endswith("/error"), body))
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Function:
    """A process of the function. What it had asked for when it was killed is answered to nobody."""

    def __init__(self, given: argparse.Namespace, log):
        self.given, self.log, self.peak, self.process = given, log, 0, None

    def start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Interface)
        self.server.daemon_threads = True
        # One that is killed breaks off in the middle of a request.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        env = {
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "esker-compactor",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.given.memory),
            "AWS_ENDPOINT_URL": self.given.endpoint,
            "ESKER_STORE": self.given.store,
            "ESKER_LOG": os.environ.get("ESKER_LOG", "info"),
            "TOKIO_WORKER_THREADS": str(self.given.threads),
            "MALLOC_MMAP_THRESHOLD_": "524288",
            "MALLOC_TRIM_THRESHOLD_": "524288",
        } | {name: os.environ.get(name, other) for name, other in CREDENTIALS.items()}
        program = Path(os.environ["FUNCTIONS"]) / "esker-compactor"
        program = str(program / "bootstrap" if program.is_dir() else program)
        self.process = subprocess.Popen([program], env=env, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def measure(self) -> None:
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        lines = (line.split() for line in status.splitlines())
        self.peak = max([self.peak] + [int(line[1]) for line in lines if line and line[0] == "VmHWM:"])

    def kill(self) -> None:
        self.measure()
        self.process.kill()
        self.process.wait()
        self.server.shutdown()
        self.process = None


class Bucket:
    """Tells of the marks of merges that were put since it was last asked."""

    def __init__(self, given: argparse.Namespace):
        self.endpoint, self.seen = given.endpoint, {}
        self.bucket, _, prefix = given.store.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix}/" if prefix else ""

    def get(self, path: str) -> bytes:
        given = {name: os.environ.get(name, other) for name, other in CREDENTIALS.items()}
        user = f"{given['AWS_ACCESS_KEY_ID']}:{given['AWS_SECRET_ACCESS_KEY']}"
        sign = f"aws:amz:{given['AWS_REGION']}:s3"
        command = ["curl", "-sS", "-f", "--aws-sigv4", sign, "--user", user, f"{self.endpoint}/{self.bucket}{path}"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    def told(self) -> list[bytes]:
        prefix = urllib.parse.quote(f"{self.prefix}dirty/", safe="")
        listing = ElementTree.fromstring(self.get(f"?list-type=2&prefix={prefix}"))
        keys = [e.text for e in listing.iter() if e.tag.endswith("Key")]
        events = []
        # A mark of the log is a number of 20 digits; that of a merge has a token.
        for key in (key for key in keys if "-" in key.rsplit("/", 1)[1]):
            says = self.get(f"/{urllib.parse.quote(key)}")
            if self.seen.get(key) != says:
                self.seen[key] = says
                record = event("s3")
                record["s3"]["bucket"]["name"] = self.bucket
                record["s3"]["object"]["key"] = urllib.parse.quote_plus(key, safe="/")
                events.append(json.dumps({"Records": [record]}).encode())
        return events


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "esker-test", "AWS_SECRET_ACCESS_KEY": "esker-test-secret", "AWS_REGION": "us-east-1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("endpoint")
    parser.add_argument("store")
    parser.add_argument("collection")
    parser.add_argument("--deadline", type=float, default=5)
    parser.add_argument("--memory", type=int, default=512, help="MiB that the function has")
    parser.add_argument("--kill", type=float, default=0.25, help="share of invocations that are killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=2000, help="invocations after which it is given up")
    parser.add_argument("--log", default="steps.log")
    given = parser.parse_args()
    draw, outcomes, kinds = random.Random(given.seed), collections.Counter(), collections.Counter()
    late, killed, bucket, waiting = 0.0, 0, Bucket(given), collections.deque()
    tick = json.dumps(event("schedule")).encode()
    began = time.monotonic()
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    with open(given.log, "wb") as log:
        function = Function(given, log)
        for number in range(given.most):
            function.start()
            name = f"step-{number}"
            sent = time.monotonic()
            waiting.extend((body, 3) for body in bucket.told())
            asked, left = waiting.popleft() if waiting else (tick, 1)
            kind = "tick" if asked is tick else "mark" if left == 3 else "again"
            kinds[kind] += 1
            Interface.events.put((name, asked, int((time.time() + given.deadline) * 1000)))
            dies = draw.random() < given.kill
            wait = draw.uniform(0, given.deadline) if dies else given.deadline + 5
            try:
                while True:
                    of, failed, body = Interface.replies.get(timeout=max(0.0, sent + wait - time.monotonic()))
                    if of == name:
                        break
            except queue.Empty:
                if not dies:
                    print(f"{number}: no answer {wait:.1f} s after it was asked", flush=True)
                    outcomes["late"] += 1
                function.kill()
                killed += 1
                if left > 1:
                    waiting.append((asked, left - 1))
                continue
            took = time.monotonic() - sent
            function.measure()
            late = max(late, took - given.deadline)
            reply = json.loads(body)
            nothing = {"outcome": "nothing"}
            outcome = {"outcome": "error", "error": reply} if failed else reply.get(given.collection, nothing)
            if failed and left > 1:
                waiting.append((asked, left - 1))
            outcomes[outcome["outcome"]] += 1
            said = {key: value for key, value in outcome.items() if key != "outcome"}
            print(f"{number}: {kind} {outcome['outcome']} {took:.2f} s {said}", flush=True)
            if asked is tick and outcome == nothing:
                break
        else:
            sys.exit("it did not end")
        function.kill()
    print(
        f"{number + 1} invocations {dict(kinds)}, {killed} killed, {dict(outcomes)}; {time.monotonic() - began:.0f} s; "
        f"at most {function.peak / 1024:.0f} MiB resident; replies at most {late:.2f} s beyond the deadline"
    )


main()
