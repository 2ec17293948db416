#!/usr/bin/env python3
"""One data set from file to answers: large.py SET [options]

Import and compaction into a directory, or with --segments of four parts one after the other (rows a second, processor time,
most memory, bytes), then warm searches for each recall that one may ask for, and cold ones: waves, requests and bytes, and with
--s3 their time over the S3 server of the tests with 50 ms a request. With --only-cold the cold ones alone, which count and do
not take the time: of what was measured before the rest stays. SET is a folder made by generate.py, or deb63k. Writes
benches/results/set-SET.json.
"""

import argparse
import json
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq

from curves import TARGETS
from harness import K, LATENCY_MS, RESULTS, SEARCH_MEMORY, Esker, binaries, live, machine, s3_server, save, say, write
from truth import Truth

SEARCHED = ("recall", "least_recall", "min_rows", "qps", "p50_ms", "p99_ms")
ASKED = ("waves", "most_waves", "gets", "p95_gets", "lists", "bytes", "p95_bytes")
# Predicates of each kind; the generated sets have these columns.
PREDICATES = {
    "=": "section = 'section 07'",
    "IN": "section IN ('section 03', 'section 11', 'section 30')",
    "range": "kb < 100",
    "contains": "array_has(tags, 'tag-020')",
    "together": "section = 'section 07' AND kb >= 100 AND array_has(tags, 'tag-001')",
}


def files(store):
    """Bytes of everything in the store, by kind of object."""
    out = {}
    for path in Path(store).rglob("*"):
        if path.is_file() and path.relative_to(store).parts[0] == "c":
            part = path.relative_to(store).parts[2]
            kind = {".parquet": "rows", ".index": "index"}.get(path.suffix, part)
            out[kind] = out.get(kind, 0) + path.stat().st_size
    return out


def used_text(used):
    return f"{used['wall_s']:.1f} s, {used['cpu_s']:.1f} s of processor, {used['rss_bytes'] / 2**20:,.0f} MiB"


def built(esker, truth, kind, memory, scratch):
    """Import and compaction, each with what it used."""
    out = {}
    arguments = ["--into", "set", "--vector-type", kind, "--metric", "cosine"]
    done, used = esker.measured("--memory", memory, "--scratch", scratch, "import", truth.base_file, *arguments)
    assert done["rows"] == truth.rows, done
    out["import"] = {**used, "rows_per_s": truth.rows / used["wall_s"]}
    say(f"{truth.name}: imported, {used_text(used)}")
    done, used = esker.measured("--memory", memory, "--scratch", scratch, "compact", "set")
    assert done["live_rows"] == truth.rows, done
    out["compact"] = {**used, "folded_rows": done["folded_rows"], "bytes_written": done["bytes_written"]}
    say(f"{truth.name}: compacted, {used_text(used)}")
    return out


def built_in_parts(esker, truth, kind, memory, scratch):
    """Imported and compacted share by share: each becomes a segment, as none is a quarter of the one before it."""
    out = {"wall_s": 0.0}
    for number, rows in enumerate(shares(truth.rows)):
        part = Path(scratch) / f"part-{number}.parquet"
        base = pq.ParquetFile(truth.base_file)
        first = sum(shares(truth.rows)[:number])
        with pq.ParquetWriter(part, base.schema_arrow) as writer:
            seen = 0
            for batch in base.iter_batches(50_000):
                begin, end = max(first - seen, 0), min(first + rows - seen, batch.num_rows)
                if begin < end:
                    writer.write_batch(batch.slice(begin, end - begin))
                seen += batch.num_rows
        arguments = ["--into", "set", "--vector-type", kind, "--metric", "cosine", "--compact"]
        _, used = esker.measured("--memory", memory, "--scratch", scratch, "import", part, *arguments)
        # Not its memory: what this process held when it began the command is counted with it.
        out["wall_s"] += used["wall_s"]
        part.unlink()
        say(f"{truth.name}: {rows:,} rows are a segment, {used['wall_s']:.1f} s")
    return {"parts": out}


def shares(rows):
    """Rows of four segments."""
    small = [rows * share // 1000 for share in (165, 36, 8)]
    return [rows - sum(small), *small]


def warm(esker, truth, queries):
    rows = []
    for target in TARGETS:
        arguments = ["-k", K, "--limit", queries, "--min-recall", target, "--ids"]
        done, _ = esker("--memory", SEARCH_MEMORY, "eval", "set", truth.query_file, *arguments)
        row = {"min_recall": target, "judged": truth.judge("none", done["ids"], K)["recall"]}
        row["memory"] = {key: done["memory"][key] for key in SEARCHED}
        row["strong"] = {key: done[key] for key in SEARCHED}
        say(f"{truth.name}: asked for {target}, recall {row['memory']['recall']:.4f}, {row['memory']['qps']:,.0f}/s in memory")
        rows.append(row)
    return rows


def cold(esker, truth, queries):
    """Searches that start with nothing cached, without a filter and under one of each kind."""
    rows = []
    for kind, predicate in {"none": None, **(PREDICATES if truth.generated else {})}.items():
        arguments = ["--filter", predicate] if predicate else []
        limit = queries if not predicate else max(1, queries // 3)
        done, _ = esker("eval", "set", truth.query_file, "-k", K, "--cold", "--limit", limit, *arguments)
        row = {"filter": kind, "predicate": predicate, "queries": limit, "matches": done["rows"]}
        row |= {key: done[key] for key in (*SEARCHED, *ASKED)}
        say(f"{truth.name}, cold, {kind}: {row['waves']:.2f} waves, {row['gets']:.0f} GETs, {row['bytes'] / 1e6:.2f} MB")
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    binaries(parser)
    parser.add_argument("--store", type=Path, help="keep the store here, or use the one that is here")
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--cold-queries", type=int, default=60)
    parser.add_argument("--s3", action="store_true", help="time cold searches over S3 too: the server holds the set in memory")
    parser.add_argument("--segments", action="store_true", help="in four segments, as a growing collection has; cold only")
    parser.add_argument("--only-cold", action="store_true", help="cold searches again; the other results stay")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    truth = Truth(args.set)
    kind = "f32" if truth.generated else "f16"
    name = truth.name + ("-in-four" if args.segments else "")
    out = args.out or RESULTS / f"set-{name}.json"
    if args.only_cold and (args.s3 or not (args.store and args.store.exists() and out.exists())):
        parser.error("--only-cold takes a --store and results that are there, and no --s3")
    result = {"set": name, "rows": truth.rows, "dimension": truth.dimension, "k": K, "vector_type": kind}
    result |= {"machine": machine(), "memory": args.memory, "queries": args.queries}
    with tempfile.TemporaryDirectory(dir=args.store and args.store.parent) as scratch:
        store = args.store or Path(scratch) / "store"
        esker = Esker(args.esker, store)
        if not store.exists():
            build = built_in_parts if args.segments else built
            result |= build(esker, truth, kind, args.memory, scratch)
        if args.only_cold:
            counted = {"cold": cold(esker, truth, args.cold_queries), "cold_machine": machine()}
            return write(out, json.loads(out.read_text("utf-8")) | counted)
        result["bytes"] = files(store)
        result["live_bytes"], result["segments"] = live(esker, "set")
        result["warm"] = [] if args.segments else warm(esker, truth, args.queries)
        result["cold"] = cold(esker, truth, args.cold_queries)
    if args.s3:
        with s3_server(args.s3_server) as (endpoint, environment):
            esker = Esker(args.esker, "s3://esker/bench", environment)
            esker("doctor")
            arguments = ["--into", "set", "--vector-type", kind, "--metric", "cosine", "--compact"]
            esker("--memory", args.memory, "import", truth.base_file, *arguments)
            urllib.request.urlopen(f"{endpoint}/-/latency/{LATENCY_MS}").read()
            result["s3"] = {"latency_ms": LATENCY_MS, "cold": cold(esker, truth, args.cold_queries)}
    result["took_s"] = time.monotonic() - began
    save(out, result)


if __name__ == "__main__":
    main()
