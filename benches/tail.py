#!/usr/bin/env python3
"""Searches beside rows that are not indexed yet: tail.py SET [options]

New rows (others of the set, moved a little) are imported into a copy of the compacted set and not compacted; both are searched,
warm, by turns; then the new rows are compacted. A ratio is the median of the rounds', each of two runs next to each other.
Recall is `esker eval`'s, over all rows. Writes benches/results/tail-SET.json.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import K, RESULTS, SEARCH_MEMORY, Esker, binaries, machine, median, save, say
from large import built
from truth import Truth, unit

SEARCHED = ("recall", "p50_ms", "p99_ms")


def new_rows(truth, count, path):
    """Rows like the first ones of the set under ids of their own."""
    first = next(pq.ParquetFile(truth.base_file).iter_batches(count))
    table = pa.Table.from_batches([first])
    field = table.schema.field("vector")
    vectors = np.asarray(first.column("vector").flatten()).reshape(len(first), -1).astype(np.float32)
    random = np.random.default_rng(11)
    for part in np.array_split(np.arange(len(first)), max(1, len(first) // 10_000)):
        shake = unit(random.standard_normal((len(part), truth.dimension), dtype=np.float32))
        vectors[part] = unit(vectors[part] + 0.2 * shake)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()).cast(field.type.value_type), type=field.type)
    table = table.set_column(table.column_names.index("vector"), field, column)
    ids = pa.array([f"tail-{i}" for i in range(len(first))])
    pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), path)
    return len(first)


def searched(esker, truth, queries):
    done, _ = esker("--memory", SEARCH_MEMORY, "eval", "set", truth.query_file, "-k", K, "--limit", queries)
    out = {"strong": {key: done[key] for key in SEARCHED}, "memory": {key: done["memory"][key] for key in SEARCHED}}
    say(f"strong {out['strong']}, in memory {out['memory']}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    binaries(parser)
    parser.add_argument("--tail", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", type=Path, help="keep the store here, or use the one that is here, as it is")
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    truth = Truth(args.set)
    kind = "f32" if truth.generated else "f16"
    result = {"set": truth.name, "rows": truth.rows, "dimension": truth.dimension, "k": K, "queries": args.queries}
    result["machine"] = machine()
    with tempfile.TemporaryDirectory(dir=args.store and args.store.parent) as scratch:
        store = args.store or Path(scratch) / "store"
        esker = Esker(args.esker, store)
        if not store.exists():
            built(esker, truth, kind, args.memory, scratch)
        # No object is ever changed: both have the same files.
        copy = Path(scratch) / "with-tail"
        shutil.copytree(store, copy, copy_function=os.link)
        longer = Esker(args.esker, copy)
        part = Path(scratch) / "tail.parquet"
        result["tail"] = new_rows(truth, args.tail, part)
        _, used = longer.measured("import", part, "--into", "set")
        result["import"] = used
        result["rounds"] = []
        for _ in range(args.rounds):
            pair = {"without": searched(esker, truth, args.queries), "with": searched(longer, truth, args.queries)}
            result["rounds"].append(pair)
        done, used = longer.measured("--memory", args.memory, "--scratch", scratch, "compact", "set")
        result["compact"] = {**used, "folded_rows": done["folded_rows"]}
    for key in ("strong", "memory"):
        for part in ("without", "with"):
            result.setdefault(part, {})[key] = {
                name: median(pair[part][key][name] for pair in result["rounds"]) for name in SEARCHED
            }
        ratios = [pair["with"][key]["p50_ms"] / pair["without"][key]["p50_ms"] for pair in result["rounds"]]
        result[f"{key}_p50_ratio"] = median(ratios)
        say(f"{key}: {', '.join(f'{r:.2f}' for r in ratios)} times as long with the tail")
    save(args.out or RESULTS / f"tail-{truth.name}.json", result)


if __name__ == "__main__":
    main()
