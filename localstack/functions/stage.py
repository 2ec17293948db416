"""What the functions run on: the emulator, a proxy before the S3 server that can cut every connection, their processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

NAMES = ["esker-ingest", "esker-query", "esker-compactor"]
EVENTS = Path(__file__).parent / "events"


def event(name: str) -> dict:
    return json.loads((EVENTS / f"{name}.json").read_text())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    """Passes bytes to the S3 server; `cut` resets every connection, as S3 does to one that was silent for long."""

    def __init__(self, host: str, port: int):
        self.upstream = (host, port)
        self.open: set[socket.socket] = set()
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            self.accepted += 1
            server = socket.create_connection(self.upstream)
            self.open |= {client, server}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(1 << 16):
                other.sendall(data)
        except OSError:
            pass
        for s in (one, other):
            self.open.discard(s)
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def cut(self) -> int:
        cut = list(self.open)
        for s in cut:
            try:
                # No time to linger: a reset instead of an end.
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        return len(cut)


class Stage:
    def __init__(self, endpoint: str, bucket: str, scratch: Path):
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self.endpoint, self.bucket, self.scratch = endpoint, bucket, scratch
        self.prefix = f"functions-{os.getpid()}"
        self.proxy = Proxy(host, int(port or 80))
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen] = {}
        self.environment = {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
            "AWS_REGION": os.environ["AWS_REGION"],
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_ENDPOINT_URL_LAMBDA": self.base,
            "ESKER_STORE": f"s3://{bucket}/{self.prefix}",
            "ESKER_INGEST_FUNCTION": "esker-ingest",
        }

    def start(self, **more: str) -> None:
        watch = ["cargo-lambda", "lambda", "watch", "--only-lambda-apis", "--ignore-changes"]
        watch += ["--invoke-address", "127.0.0.1", "--invoke-port", str(self.port), "--timeout", "3600"]
        self._spawn("emulator", watch, os.environ.copy(), self._project())
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit("the emulator does not listen: " + self.log("emulator")[-1000:])
        for name in NAMES:
            self.function(name, **more)

    def function(self, name: str, **more: str) -> None:
        env = self.environment | more | {
            "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{self.port}/.rt/{name}",
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        }
        program = Path(os.environ["FUNCTIONS"]) / name
        self._spawn(name, [str(program / "bootstrap" if program.is_dir() else program)], env, self.scratch)

    def _project(self) -> Path:
        """The emulator wants a package with binaries of these names, although it does not start them."""
        project = self.scratch / "project"
        (project / "src/bin").mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (project / f"src/bin/{name}.rs").write_text("fn main() {}\n")
        text = '[package]\nname = "none"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n'
        (project / "Cargo.toml").write_text(text)
        return project

    def _spawn(self, name: str, command: list[str], env: dict, folder: Path) -> None:
        log = open(self.scratch / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen(
            command, env=env, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )

    def log(self, name: str) -> str:
        return (self.scratch / f"{name}.log").read_text(errors="replace")

    def freeze(self, seconds: float) -> None:
        for name in NAMES:
            self.processes[name].send_signal(signal.SIGSTOP)
        cut = self.proxy.cut()
        time.sleep(seconds)
        for name in NAMES:
            self.processes[name].send_signal(signal.SIGCONT)
        print(f"   frozen for {seconds:g} s, {cut} ends of connections cut")

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def post(self, url: str, body: bytes, headers: dict, method: str = "POST") -> tuple[int, dict, bytes]:
        request = urllib.request.Request(url, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as e:
            return e.code, dict(e.headers), e.read()

    def invoke(self, name: str, payload) -> tuple[bool, dict]:
        """Whether the function did not fail, and its answer."""
        url = f"{self.base}/2015-03-31/functions/{name}/invocations"
        status, headers, body = self.post(url, json.dumps(payload).encode(), {})
        answer = json.loads(body) if body else {}
        failed = status >= 300 or "errorMessage" in answer
        return not failed, answer

    def s3(self, method: str, path: str) -> bytes:
        """A request to the S3 server itself, signed by curl."""
        return self.curl("s3", method, f"{self.endpoint}{path}")

    def curl(self, service: str, method: str, url: str, *more: str) -> bytes:
        env = self.environment
        sign = f"aws:amz:{env['AWS_REGION']}:{service}"
        user = f"{env['AWS_ACCESS_KEY_ID']}:{env['AWS_SECRET_ACCESS_KEY']}"
        command = ["curl", "-sS", "-X", method, "--aws-sigv4", sign, "--user", user, *more, url]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
