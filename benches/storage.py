#!/usr/bin/env python3
"""What the compacted deb63k takes, beside its rows as JSON: storage.py DATASET [options]

Counted are all objects that the newest manifest reaches: itself, its copy in `head`, and of each segment the rows, the index
and the deletion bitmap. The JSON has no spaces and the fewest digits from which each binary32 number is read back
exactly; lines end with one byte. Writes benches/results/storage.json.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import RESULTS, Esker, binaries, machine, save, say
from truth import Truth


def json_bytes(path, vector_type):
    """Length of the rows as JSON."""
    total = 0
    for batch in pq.ParquetFile(path).iter_batches(5_000):
        values = batch.column("vector").flatten().cast(vector_type)
        numbers = values.cast(pa.string())
        total += pc.sum(pc.binary_length(numbers)).as_py()
        # Brackets, commas between the numbers, the key.
        total += len(values) + len(batch) * (1 + len('"vector":,'))
        for row in batch.drop_columns(["vector"]).to_pylist():
            row = {key: value for key, value in row.items() if value is not None}
            total += len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()) + 1
    return total


def reachable(esker, store):
    """Bytes of the objects that the newest manifest needs, by kind."""
    shown, _ = esker("manifest", "show", "set")
    folder = next((store / "c").iterdir())
    newest = min((folder / "manifest").iterdir(), key=lambda path: path.name)
    out = {"manifest": newest.stat().st_size, "head": (folder / "head").stat().st_size}
    out["rows"] = sum(s["rows_size"] for s in shown["segments"])
    out["index"] = sum(s["index_size"] for s in shown["segments"])
    assert not any(s["deletes"] for s in shown["segments"]), "freshly built, nothing is deleted"
    on_disk = sum(p.stat().st_size for p in (folder / "segment").iterdir())
    assert on_disk == out["rows"] + out["index"], (on_disk, out)
    return {**out, "total": sum(out.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    binaries(parser)
    parser.add_argument("--out", type=Path, default=RESULTS / "storage.json")
    args = parser.parse_args()
    truth = Truth(args.dataset)
    result = {"set": truth.name, "rows": truth.rows, "dimension": truth.dimension, "machine": machine()}
    result["json_bytes"] = json_bytes(truth.base_file, pa.float32())
    say(f"JSON: {result['json_bytes'] / truth.rows:,.0f} bytes a row")
    for kind in ("f32", "f16"):
        with tempfile.TemporaryDirectory() as scratch:
            store = Path(scratch) / "store"
            esker = Esker(args.esker, store)
            esker("import", truth.base_file, "--into", "set", "--vector-type", kind, "--metric", "cosine", "--compact")
            row = reachable(esker, store)
        row["times_smaller"] = result["json_bytes"] / row["total"]
        say(f"{kind}: {row['total'] / 1e6:.1f} MB, {row['times_smaller']:.2f} times smaller")
        result[kind] = row
    save(args.out, result)


if __name__ == "__main__":
    main()
