"""What the torture scripts share: the binary, servers that can be killed, clients that persist, and the history of what
was acknowledged."""

import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
import xml.etree.ElementTree as xml
from pathlib import Path
from urllib.parse import quote, urlsplit

WORK = Path(os.environ["TORTURE_WORK"])
DIMENSION = 4
# Tokens of callers that the register keeps.
TOKENS = 4096
# How long a write is sent again before that is a failure.
PATIENCE = 120


class Wrong(Exception):
    """Something that must not be."""


def vector(seed):
    """The vector of a write: small multiples of 1/64, so that distances are exact."""
    return [((seed * step + step) % 1009) / 64 for step in (37, 101, 211, 307)]


class Esker:
    """The command on one store."""

    def __init__(self, store, **environment):
        self.binary, self.store = os.environ["ESKER"], store
        self.environment = {**os.environ, **environment}

    def start(self, *arguments, name="command"):
        """Runs in the background, in a log of its own."""
        with (WORK / f"{name}.log").open("ab") as log:
            command = [self.binary, "--store", self.store, "--format", "json", *map(str, arguments)]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=self.environment)

    def run(self, *arguments, allowed=(0,)):
        """The JSON it prints, where it exits as allowed."""
        command = [self.binary, "--store", self.store, "--format", "json", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        if done.returncode not in allowed:
            raise Wrong(f"`{' '.join(map(str, arguments))}` exits with {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def rows(self, collection):
        """Every live row by id, read by `export`."""
        file = WORK / f"{collection}.ndjson"
        self.run("export", collection, file)
        rows = {}
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["id"] in rows:
                    raise Wrong(f"{collection}: `{row['id']}` is exported twice")
                rows[row["id"]] = row
        return rows

    def verify(self, collection):
        """What verify says; that it finds nothing is required."""
        said = self.run("verify", collection, allowed=(0, 3))
        if said["findings"]:
            raise Wrong(f"verify {collection}: {json.dumps(said['findings'])}")
        return said

    def tokens(self, collection):
        """How many batches the register and the tail name, each once; None when the register let go of some."""
        recent = [r["token"] for r in self.run("manifest", "show", collection)["recent"]]
        tail = [b["token"] for entry in self.run("wal", "show", collection) for b in entry["batches"]]
        named = recent + tail
        if len(set(named)) != len(named):
            raise Wrong(f"{collection}: a batch is in the log twice")
        return len(named) if len(recent) < TOKENS else None

    def keys(self, folder):
        """The names of the objects in a folder of the store."""
        if not self.store.startswith("s3://"):
            path = Path(self.store) / folder
            return sorted(p.name for p in path.iterdir()) if path.exists() else []
        bucket, _, prefix = self.store.removeprefix("s3://").partition("/")
        prefix = f"{prefix}/{folder}/"
        found = [e.text for e in xml.fromstring(listing(bucket, prefix)).iter() if e.tag.rpartition("}")[2] == "Key"]
        return sorted(key.removeprefix(prefix) for key in found)


def listing(bucket, prefix):
    """The first page of a listing of a bucket, XML."""
    endpoint, region = urlsplit(os.environ["AWS_ENDPOINT_URL"]), os.environ["AWS_REGION"]
    query = f"list-type=2&prefix={quote(prefix, safe='')}"
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    headers = {"host": endpoint.netloc, "x-amz-content-sha256": hashlib.sha256(b"").hexdigest(), "x-amz-date": now}
    signed = ";".join(headers)
    lines = "".join(f"{k}:{v}\n" for k, v in headers.items())
    canonical = f"GET\n/{bucket}\n{query}\n{lines}\n{signed}\n{headers['x-amz-content-sha256']}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, SignedHeaders={signed}, Signature={key.hex()}"
    ask = urllib.request.Request(f"{endpoint.scheme}://{endpoint.netloc}/{bucket}?{query}", headers=headers)
    ask.add_header("authorization", f"AWS4-HMAC-SHA256 {credential}")
    with urllib.request.urlopen(ask, timeout=30) as reply:
        page = reply.read()
    if b"<IsTruncated>true" in page:
        raise Wrong(f"{prefix} has more names than a page")
    return page


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """An `esker serve` that keeps its ports over restarts."""

    def __init__(self, esker, *flags, name="serve"):
        self.esker, self.flags, self.name = esker, flags, name
        self.port, self.grpc = free_port(), free_port()
        self.process = None
        self.kills = 0
        self.start()

    def start(self):
        addresses = ["--http", f"127.0.0.1:{self.port}", "--grpc", f"127.0.0.1:{self.grpc}"]
        self.process = self.esker.start("serve", *addresses, *self.flags, name=self.name)

    def ready(self):
        client, end = Client(self), time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if client.once("GET", "/readyz")[0] == 200:
                    return self
            except (OSError, http.client.HTTPException):
                pass
            if self.process.poll() is not None:
                raise Wrong(f"{self.name} ended with {self.process.returncode}")
            time.sleep(0.05)
        raise Wrong(f"{self.name} is not ready after 60 s")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def stop(self):
        """What an operator does; it must end by itself, with 0."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(100)
        if code:
            raise Wrong(f"{self.name} ends with {code} on SIGTERM")


class Client:
    """One connection, kept alive. Not for several threads."""

    def __init__(self, server):
        self.server, self.connection = server, None
        self.counts = {}

    def once(self, method, path, body=None, key=None, timeout=60):
        """Status, reply and the header retry-after."""
        headers = {"content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=timeout)
            self.connection.request(method, path, body and json.dumps(body), headers)
            reply = self.connection.getresponse()
            content = reply.read()
            return reply.status, json.loads(content) if content else None, reply.getheader("retry-after")
        except (OSError, http.client.HTTPException, ValueError):
            if self.connection:
                self.connection.close()
            self.connection = None
            raise

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def call(self, method, path, body=None, key=None, allowed=()):
        """The reply; sent again under the same key while the answer is that it may be. None for allowed statuses."""
        end, wait = time.monotonic() + PATIENCE, 0.02
        while True:
            try:
                status, reply, after = self.once(method, f"/v1{path}", body, key)
            except (OSError, http.client.HTTPException, ValueError) as e:
                status, reply, after = 0, {"error": repr(e)}, None
            if status in (200, 201):
                return reply
            if status in allowed and not after:
                self.count(str(status))
                return None
            # A conflict with a time to retry after lost too many races.
            if status not in (0, 429, 503) and not (status == 409 and after):
                raise Wrong(f"{method} {path} is answered {status}: {reply}")
            self.count(reply["error"]["kind"] if status else "broken off")
            if time.monotonic() > end:
                raise Wrong(f"{method} {path} is not answered within {PATIENCE} s: {status} {reply}")
            time.sleep(wait)
            wait = min(wait * 2, 0.5)


class History:
    """What was acknowledged: per position, what became of which ids."""

    def __init__(self, log):
        self.lock = threading.Lock()
        self.log = (WORK / log).open("w")
        self.writes = []
        self.last = 0

    def acknowledged(self, position, effects, condition=None):
        """`effects`: id → a row, None where it was deleted, or a callable on the row before."""
        with self.lock:
            self.writes.append((position, effects, condition))
            self.last = max(self.last, position)
            plain = {id: None if callable(row) else row for id, row in effects.items()}
            self.log.write(json.dumps([position, plain]) + "\n")
            self.log.flush()

    def final(self):
        """id → the rows that may be live, None among them where it may be gone. More than one where requests that
        touch the same id were joined into one entry."""
        newest = {}
        for position, effects, _ in self.writes:
            for id, row in effects.items():
                at, rows = newest.get(id, (0, []))
                if position > at:
                    newest[id] = (position, [row])
                elif position == at:
                    rows.append(row)
        return {id: rows for id, (_, rows) in newest.items()}


class Threads:
    """Threads that stop together; the first failure is raised where they are joined."""

    def __init__(self):
        self.over = threading.Event()
        self.failures, self.threads = [], []

    def start(self, work, *arguments):
        def guarded():
            try:
                while not self.over.is_set():
                    work(*arguments)
            except BaseException as e:
                self.failures.append(e)
                self.over.set()

        thread = threading.Thread(target=guarded, daemon=True)
        self.threads.append(thread)
        thread.start()

    def check(self):
        if self.failures:
            raise self.failures[0]

    def join(self):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE + 90)
            if thread.is_alive():
                raise Wrong("a client hangs")
        self.check()
