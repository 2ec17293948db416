"""How long a function takes from the start of its process to its first request for an event: the median of N starts.

Stands for the platform: a server with the runtime interface that never has an event.
"""

import http.server
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

NAMES = ["esker-ingest", "esker-query", "esker-compactor"]


class Interface(http.server.BaseHTTPRequestHandler):
    asked = threading.Event()

    def do_GET(self):
        Interface.asked.set()
        time.sleep(3600)

    def log_message(self, *_):
        pass


def start(name: str, port: int) -> tuple[float, int]:
    """Milliseconds to the first request, and kB of memory then."""
    env = {
        "PATH": os.environ["PATH"],
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "ESKER_STORE": "s3://bucket/prefix",
        "ESKER_INGEST_FUNCTION": "esker-ingest",
    }
    Interface.asked.clear()
    program = Path(os.environ["FUNCTIONS"]) / name
    program = str(program / "bootstrap" if program.is_dir() else program)
    began = time.perf_counter()
    process = subprocess.Popen([program], env=env)
    if not Interface.asked.wait(20):
        sys.exit(f"{name} asked for no event; it ended with {process.poll()}")
    took = (time.perf_counter() - began) * 1000
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    process.kill()
    process.wait()
    return took, resident


def main() -> None:
    times = int(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Interface)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"load {os.getloadavg()[0]:.1f}")
    for name in NAMES:
        starts = [start(name, server.server_port) for _ in range(times)]
        ms = sorted(took for took, _ in starts)
        print(
            f"{name:16} {statistics.median(ms):6.1f} ms median of {times}, {ms[0]:.1f} to {ms[-1]:.1f}; "
            f"{max(kb for _, kb in starts) / 1024:.0f} MiB resident"
        )


main()
