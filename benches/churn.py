#!/usr/bin/env python3
"""What changes leave behind, on deb63k: churn.py DATASET [options]

churn: ten rounds; in each a tenth of the rows is overwritten (vectors moved a little), a twentieth deleted, and a tenth of
new ones arrive whose vectors are drawn elsewhere: those of other rows, pulled to one direction. Each round ends with a
compaction. After the last one the same rows are built afresh in another store, and both are asked the same queries, half
of them from the shifted distribution. Nothing is collected, so what lies in the store is all that was ever written.

deletes: for each of some queries, alone in a copy of the store: its 500 nearest rows are deleted and it is asked again,
at once and after a compaction.

Recall is `esker eval`'s, against exact search over the rows that live. Writes benches/results/churn.json.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import K, RESULTS, Esker, binaries, machine, save, say
from truth import Truth, unit

DELETED = 500
LARGE = 1 << 20


def moved(random, vectors, towards, pull, noise):
    """Unit vectors, pulled to a direction and shaken."""
    shake = unit(random.standard_normal(vectors.shape, dtype=np.float32))
    return unit(vectors + pull * towards + noise * shake).astype(np.float16)


def with_vectors(table, vectors, ids=None):
    field = table.schema.field("vector")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=field.type)
    table = table.set_column(table.column_names.index("vector"), field, column)
    return table if ids is None else table.set_column(table.column_names.index("id"), "id", pa.array(ids))


def matrix(table):
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1).astype(np.float32)


class Written:
    """Bytes ever written to a store, by kind. Each compaction overwrites `head`, which is counted again."""

    def __init__(self, store):
        self.store, self.heads = store, 0

    def now(self):
        out = {"log": 0, "heads": self.heads}
        for path in self.store.glob("c/*/*/**/*"):
            if path.is_file():
                kind = path.relative_to(self.store).parts[2]
                kind = "log" if kind in ("wal", "body") else kind
                out[kind] = out.get(kind, 0) + path.stat().st_size
        return out

    def compacted(self):
        self.heads += sum(p.stat().st_size for p in self.store.glob("c/*/head"))


def recall(esker, queries, limit):
    done, _ = esker("eval", "deb", queries, "-k", K, "--limit", limit)
    return {"strong": done["recall"], "memory": done["memory"]["recall"], "qps": done["memory"]["qps"]}


def segments(esker):
    shown, _ = esker("manifest", "show", "deb")
    return [s["rows"] for s in shown["segments"]]


def churn(binary, truth, scratch, rounds, queries):
    random = np.random.default_rng(7)
    table = pq.read_table(truth.base_file).combine_chunks()
    towards = unit(random.standard_normal((1, truth.dimension), dtype=np.float32))
    asked = truth.queries[random.permutation(len(truth.queries))[:queries]]
    asked[1::2] = moved(random, asked[1::2], towards, 0.6, 0.3)
    query_file, part = scratch / "asked.parquet", scratch / "part.parquet"
    column = pa.FixedSizeListArray.from_arrays(pa.array(asked.ravel()), truth.dimension)
    pq.write_table(pa.table({"vector": column}), query_file)

    store = scratch / "churn"
    esker, written = Esker(binary, store), Written(store)
    esker("import", truth.base_file, "--into", "deb", "--vector-type", "f16", "--metric", "cosine", "--compact")
    written.compacted()
    before, out = written.now(), []
    for step in range(rounds):
        n = len(table)
        order = random.permutation(n)
        over, gone, kept = np.split(order, [n // 10, n // 10 + n // 20])
        overwritten = table.take(over)
        overwritten = with_vectors(overwritten, moved(random, matrix(overwritten), towards, 0.0, 0.2))
        like = table.take(random.choice(n, n // 10, replace=False))
        ids = [f"new-{step}-{i}" for i in range(len(like))]
        new = with_vectors(like, moved(random, matrix(like), towards, 0.6, 0.3), ids)
        pq.write_table(pa.concat_tables([overwritten, new]), part)
        esker("import", part, "--into", "deb")
        esker("delete", "deb", "-", stdin="\n".join(table["id"].take(gone).to_pylist()) + "\n")
        done, _ = esker("compact", "deb")
        written.compacted()
        table = pa.concat_tables([table.take(kept), overwritten, new]).combine_chunks()
        assert done["live_rows"] == len(table), (done, len(table))
        row = {"round": step + 1, "rows": len(table), "segments": segments(esker), "written": written.now()}
        row["recall"] = recall(esker, query_file, queries)
        say(f"round {row['round']}: {len(table):,} rows, segments {row['segments']}, recall {row['recall']['memory']:.4f}")
        out.append(row)
    pq.write_table(table, part)
    afresh = Esker(binary, scratch / "fresh")
    afresh("import", part, "--into", "deb", "--vector-type", "f16", "--metric", "cosine", "--compact")
    fresh = recall(afresh, query_file, queries)
    after = written.now()
    grown = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in after}
    shown, _ = afresh("manifest", "show", "deb")
    row_bytes = sum(s["rows_size"] + s["index_size"] for s in shown["segments"]) / len(table)
    stored = sum(grown.values()) - grown["log"]
    result = {"rounds": out, "fresh": fresh, "most_segments": max(len(r["segments"]) for r in out), "grown": grown}
    # Bytes written by compactions for each byte of the log they folded, and for each that its rows take compacted.
    result["amplification"] = stored / grown["log"]
    put = rounds_rows(out, truth.rows)
    result["amplification_compacted"] = stored / (put * row_bytes)
    result["rows_put"] = put
    say(f"fresh: recall {fresh['memory']:.4f}; written {result['amplification']:.2f} bytes for each of the log")
    return result


def rounds_rows(rounds, rows):
    """Rows put by all rounds: a tenth overwritten and a tenth new, of the rows there were before each."""
    before = [rows, *(r["rows"] for r in rounds[:-1])]
    return sum(2 * (n // 10) for n in before)


def deletes(binary, truth, scratch, queries):
    whole = scratch / "whole"
    Esker(binary, whole)("import", truth.base_file, "--into", "deb", "--vector-type", "f16", "--metric", "cosine", "--compact")
    query_file, vector_file, out = scratch / "one.parquet", scratch / "one.json", []
    # Large objects are immutable and are shared by the copies.
    share = lambda a, b: os.link(a, b) if os.path.getsize(a) > LARGE else shutil.copy2(a, b)
    for query in truth.queries[:queries]:
        store = scratch / "copy"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(whole, store, copy_function=share)
        esker = Esker(binary, store)
        column = pa.FixedSizeListArray.from_arrays(pa.array(query), truth.dimension)
        pq.write_table(pa.table({"vector": column}), query_file)
        vector_file.write_text(str([float(x) for x in query]), "utf-8")
        found, _ = esker("search", "deb", "--vector-file", vector_file, "-k", DELETED, "--include", "section")
        ids = [hit["id"] for hit in found["hits"]]
        assert len(ids) == DELETED
        esker("delete", "deb", "-", stdin="\n".join(ids) + "\n")
        at_once = recall(esker, query_file, 1)
        esker("compact", "deb")
        later = recall(esker, query_file, 1)
        out.append({"at_once": at_once, "compacted": later})
    mean = lambda when, where: sum(r[when][where] for r in out) / len(out)
    result = {"queries": queries, "deleted": DELETED}
    for when in ("at_once", "compacted"):
        result[when] = {where: mean(when, where) for where in ("strong", "memory")}
        say(f"own {DELETED} nearest deleted, {when}: recall {result[when]}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    binaries(parser)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--deletes", type=int, default=50, help="queries whose nearest rows are deleted")
    parser.add_argument("--out", type=Path, default=RESULTS / "churn.json")
    args = parser.parse_args()
    truth = Truth(args.dataset)
    result = {"set": truth.name, "rows": truth.rows, "dimension": truth.dimension, "k": K, "machine": machine()}
    with tempfile.TemporaryDirectory() as scratch:
        result["deletes"] = deletes(args.esker, truth, Path(scratch), args.deletes)
        result["churn"] = churn(args.esker, truth, Path(scratch), args.rounds, args.queries)
    save(args.out, result)


if __name__ == "__main__":
    main()
