#!/usr/bin/env python3
"""Measures the deb63k data set: import, compaction, recall under every filter, speed beside the peer, cold searches.

Run it through benches/run.sh, which builds and installs what it needs. Writes one JSON file; benches/tables.py makes
the tables from it. Speeds are medians over the rounds; Esker and the peer take turns within a round.
"""

import argparse
import json
import shutil
import tempfile
import time
import urllib.request
from pathlib import Path

from harness import K, LATENCY_MS, RESULTS, Esker, binaries, machine, median, s3_server, save, say
from truth import Truth

RECALL = 0.98


def load(binary, folder, truth, vector_type, rounds):
    """Imports and compacts into fresh directories. Returns the medians and the last store."""
    seconds = {"import": [], "compact": []}
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        esker = Esker(binary, folder)
        done, _ = esker("import", truth.base_file, "--into", "deb", "--vector-type", vector_type)
        assert done["rows"] == truth.rows, done
        seconds["import"].append(done["took_ms"] / 1000)
        done, _ = esker("compact", "deb")
        assert done["live_rows"] == truth.rows, done
        seconds["compact"].append(done["took_ms"] / 1000)
        say(f"{vector_type}: import {seconds['import'][-1]:.2f} s, compact {seconds['compact'][-1]:.2f} s")
    return esker, {
        "vector_type": vector_type,
        "rows": truth.rows,
        "rounds": rounds,
        "import_s": median(seconds["import"]),
        "import_rows_per_s": truth.rows / median(seconds["import"]),
        "compact_s": median(seconds["compact"]),
        "segments": done["segments_out"],
        "sizes": sizes(folder / "c" / "deb-1"),
    }


def sizes(folder):
    """Bytes by kind of object. `compacted` is what a query of the compacted collection needs: all but the old log."""
    out = {}
    for path in folder.rglob("*"):
        if path.is_file():
            part = path.relative_to(folder).parts[0]
            kind = {".parquet": "rows", ".index": "index"}.get(path.suffix, part)
            out[kind] = out.get(kind, 0) + path.stat().st_size
    out["total"] = sum(out.values())
    out["compacted"] = out["total"] - out.get("wal", 0) - out.get("body", 0)
    return out


def filters(esker, truth, count):
    """`esker eval` for every filter, its answers judged against the file's."""
    rows = []
    for name in truth.filters():
        arguments = [] if name == "none" else ["--filter", name]
        done, _ = esker("eval", "deb", truth.query_file, "-k", str(K), "--ids", "--limit", str(count), *arguments)
        judged = truth.judge(name, done["ids"], K)
        row = {
            "filter": name,
            "matches": truth.matches(name),
            **judged,
            "recall_by_eval": done["recall"],
            "least_recall": done["least_recall"],
            "memory_recall_by_eval": done["memory"]["recall"],
            "memory_min_rows": done["memory"]["min_rows"],
            **{f"memory_{key}": done["memory"][key] for key in ("qps", "p50_ms", "p99_ms")},
            **{f"strong_{key}": done[key] for key in ("qps", "p50_ms", "p99_ms", "waves", "gets")},
        }
        say(f"{name}: recall {row['recall']:.4f}, {row['min_rows']} rows, {row['memory_qps']:,.0f}/s in memory")
        rows.append(row)
    return rows


def duel(esker, truth, rounds, scratch, count):
    """Unfiltered searches, Esker and the peer in turns, one caller thread each."""
    import lancedb
    import peer

    rival, setting, tried = peer.fastest(scratch, truth, K, RECALL)
    say(f"peer: {rival.label}, nprobes {setting[0]}, refine_factor {setting[1]}")
    ours, theirs, strong = [], [], []
    for _ in range(rounds):
        done, _ = esker("eval", "deb", truth.query_file, "-k", str(K), "--limit", str(count))
        ours.append(done["memory"])
        strong.append(done)
        found, times = rival.search(setting, truth.queries, K)
        times.sort()
        at = lambda share: times[int(len(times) * share)]
        theirs.append({"qps": 1000 * len(times) / sum(times), "p50_ms": at(0.5), "p99_ms": at(0.99)})
        say(f"Esker {ours[-1]['qps']:,.0f}/s, peer {theirs[-1]['qps']:,.0f}/s")
    medians = lambda rows: {key: median(r[key] for r in rows) for key in ("qps", "p50_ms", "p99_ms")}
    judged = truth.judge("none", found, K)
    return {
        "queries": count,
        "k": K,
        "rounds": rounds,
        "esker": {**medians(ours), "recall": ours[-1]["recall"]},
        "esker_strong": {**medians(strong), "recall": strong[-1]["recall"]},
        "lancedb": {
            **medians(theirs),
            **rival.label,
            "version": lancedb.__version__,
            "nprobes": setting[0],
            "refine_factor": setting[1],
            "recall": judged["recall"],
            "ingest_s": rival.ingest_s,
            "index_s": rival.index_s,
            "bytes": sum(p.stat().st_size for p in Path(rival.folder).rglob("*") if p.is_file()),
            "tried": tried,
        },
        "ratio": median(a["qps"] / b["qps"] for a, b in zip(ours, theirs)),
    }


def cold(esker_binary, server_binary, truth, vector_type, count, processes):
    """Searches that start with nothing, over S3 with latency: `esker eval --cold`, and fresh processes."""
    with s3_server(server_binary) as (endpoint, environment):
        esker = Esker(esker_binary, "s3://esker/bench", environment)
        esker("doctor")
        esker("import", truth.base_file, "--into", "deb", "--vector-type", vector_type, "--compact")
        urllib.request.urlopen(f"{endpoint}/-/latency/{LATENCY_MS}").read()
        rows = []
        for name in truth.filters():
            arguments = [] if name == "none" else ["--filter", name]
            limit = count if name == "none" else max(1, count // 4)
            arguments = ["--cold", "--ids", "--limit", str(limit), *arguments]
            done, _ = esker("eval", "deb", truth.query_file, "-k", str(K), *arguments)
            judged = truth.judge(name, done["ids"], K)
            keep = ("waves", "most_waves", "gets", "p95_gets", "lists", "bytes", "p95_bytes", "p50_ms", "p99_ms")
            rows.append({"filter": name, "queries": limit, **judged, **{key: done[key] for key in keep}})
            say(f"cold, {name}: {rows[-1]['waves']:.2f} waves, {rows[-1]['gets']:.0f} GETs, {rows[-1]['p50_ms']:.0f} ms")
        return {"latency_ms": LATENCY_MS, "filters": rows, "process": fresh(esker, truth, processes)}


def fresh(esker, truth, processes):
    """The first strong search of fresh processes, start to end."""
    runs = []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        for query in truth.queries[:processes]:
            file.seek(0)
            file.truncate()
            json.dump([float(x) for x in query], file)
            file.flush()
            done, wall = esker("search", "deb", "--vector-file", file.name, "-k", str(K))
            io = {key: done["io"][key] for key in ("waves", "gets", "bytes")}
            runs.append({"wall_ms": wall * 1000, "took_ms": done["took_ms"], **io})
    out = {key: median(r[key] for r in runs) for key in runs[0]}
    out.update({f"most_{key}": max(r[key] for r in runs) for key in ("waves", "gets", "bytes")})
    return {"processes": processes, **out}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder with base.parquet, queries.parquet and ground_truth.json")
    binaries(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--cold-queries", type=int, default=100)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    parser.add_argument("--out", type=Path, default=RESULTS / "deb63k.json")
    args = parser.parse_args()

    began = time.monotonic()
    truth = Truth(args.dataset, args.queries)
    result = {"machine": machine(), "queries": len(truth.queries), "k": K, "dimension": truth.dimension}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        _, f32 = load(args.esker, scratch / "f32", truth, "f32", args.rounds)
        shutil.rmtree(scratch / "f32")
        esker, f16 = load(args.esker, scratch / "f16", truth, "f16", args.rounds)
        result["load"] = [f16, f32]
        result["filters"] = filters(esker, truth, len(truth.queries))
        if not args.no_peer:
            result["warm"] = duel(esker, truth, args.rounds, scratch / "peer", len(truth.queries))
        result["cold"] = cold(args.esker, args.s3_server, truth, "f16", args.cold_queries, args.processes)
    result["took_s"] = time.monotonic() - began
    save(args.out, result)


if __name__ == "__main__":
    main()
