"""What the client scripts share: where the server is, and what the collection `pages` should hold.

check-clients.sh sets ESKER_HTTP, ESKER_GRPC and SCRATCH. A script prints one line, `version<TAB>what it did`, and raises
where something is not as it should be.
"""

import json
import math
import os
import random
import struct
from pathlib import Path

HTTP = os.environ["ESKER_HTTP"]
GRPC = os.environ["ESKER_GRPC"]
SCRATCH = Path(os.environ["SCRATCH"])
EXPECTED = SCRATCH / "expected.json"
FILES = SCRATCH / "files"
DIMENSION = 8
TOPICS = ["music", "ocean", "history"]


def row(number):
    """The same row for the same number, its floats exact in binary32."""
    pick = random.Random(number)
    vector = [pick.randrange(-1024, 1025) / 512 for _ in range(DIMENSION)]
    metadata = {"topic": TOPICS[number % 3], "year": 1900 + number % 120, "rating": number / 8, "tags": ["a", "b"][: number % 3]}
    return {"id": f"page-{number:04}", "vector": vector, "metadata": metadata}


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def expected():
    """The live rows of `pages` by id, as with_requests.py left them."""
    return json.loads(EXPECTED.read_text())


def nearest(rows, vector, k):
    return [r["id"] for r in sorted(rows, key=lambda r: (math.dist(r["vector"], vector), r["id"]))[:k]]


def same(found, wanted, what):
    if found != wanted:
        raise SystemExit(f"{what}: {found!r} instead of {wanted!r}")


def done(version, what):
    print(f"{version}\t{what}")
