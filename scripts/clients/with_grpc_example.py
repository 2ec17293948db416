"""grpc_client.py, which knows nothing but what the server says of itself, as a reader would run it."""

import subprocess
import sys
from pathlib import Path

import grpc

from common import GRPC, done, same

example = Path(__file__).with_name("grpc_client.py")
said = subprocess.run([sys.executable, example, GRPC], check=True, capture_output=True, text=True).stdout.splitlines()
same(len(said), 7, "lines")
same(said[0], "{'name': 'clients', 'id': 'clients-1'}", "created")
same([line.split()[:2] for line in said[2:4]], [["1", "a"], ["2", "b"]], "the nearest")
same(said[4], "a", "scanned")
same(said[5].split()[0], "INVALID_ARGUMENT", "the unknown column")
done(grpc.__version__, "create, upsert, search, scan, an error with its trailers, drop")
