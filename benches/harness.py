"""What the measurements share: the command and its resources, the S3 server of the tests, the machine, the data sets."""

import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches/results"
LATENCY_MS = 50
# Memory of searches: the sets of a million rows are held whole.
SEARCH_MEMORY = "6GiB"
K = 10


class Esker:
    """The command over one store."""

    def __init__(self, binary, store, environment=None):
        self.binary, self.store = binary, store
        self.environment = {**os.environ, **(environment or {})}

    def __call__(self, *arguments, stdin=None):
        """The JSON that a command prints, and its wall time in seconds."""
        command = [str(self.binary), "--store", str(self.store), "--format", "json", *map(str, arguments)]
        began = time.perf_counter()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, env=self.environment, **pipes) as process:
            out, err = process.communicate(stdin)
        wall = time.perf_counter() - began
        if process.returncode:
            sys.exit(f"error: {' '.join(command)[:2000]}\n{out}{err}")
        return json.loads(out), wall

    def measured(self, *arguments):
        """The same, and the most memory the process had in bytes and its processor time in seconds."""
        command = [str(self.binary), "--store", str(self.store), "--format", "json", *map(str, arguments)]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"error: {' '.join(command)}\n{out}")
        wall = time.perf_counter() - began
        cpu = usage.ru_utime + usage.ru_stime
        return json.loads(out), {"wall_s": wall, "rss_bytes": usage.ru_maxrss * 1024, "cpu_s": cpu}


def binaries(parser):
    """The options that name the programs; ESKER and S3_SERVER in the environment do as well."""
    release = ROOT / "target/release"
    where = lambda path: Path(path).resolve()
    parser.add_argument("--esker", type=where, default=os.environ.get("ESKER", release / "esker"))
    parser.add_argument("--s3-server", type=where, default=os.environ.get("S3_SERVER", release / "s3-server"))


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def median(values):
    return statistics.median(list(values))


def times_of(milliseconds):
    """Searches a second and quantiles of one caller's times."""
    times = sorted(milliseconds)
    at = lambda share: times[min(int(len(times) * share), len(times) - 1)]
    return {"qps": 1000 * len(times) / sum(times), "p50_ms": at(0.5), "p99_ms": at(0.99)}


def live(esker, collection):
    """Bytes of the rows and indexes that the newest manifest refers to, and the number of its segments."""
    shown, _ = esker("manifest", "show", collection)
    return sum(s["rows_size"] + s["index_size"] for s in shown["segments"]), len(shown["segments"])


def size_of(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@contextlib.contextmanager
def s3_server(binary):
    """The tests' S3 server: its endpoint, and the environment of its clients."""
    with subprocess.Popen([binary, "--env"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        environment = {}
        for line in server.stdout:
            name, value = line.removeprefix("export ").strip().split("=", 1)
            environment[name] = value.strip("'\"")
            if name == "AWS_REGION":  # the last line
                break
        try:
            yield environment["AWS_ENDPOINT_URL"], environment
        finally:
            server.terminate()


def machine():
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "")
    memory = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal"))
    return {
        "cores": os.cpu_count(),
        "cpu": model or platform.machine(),
        "memory_gib": round(memory / 2**20),
        "load_average": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
    }


def save(path, result):
    """Writes a result with the machine it was measured on; `result["machine"]` was taken at the start."""
    result["machine"]["load_average_after"] = os.getloadavg()[0]
    write(path, result)


def write(path, result):
    """Writes a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    say(f"{path} written")
