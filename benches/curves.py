#!/usr/bin/env python3
"""Recall and speed of warm searches, Esker beside the others: curves.py SET [options]

SET is a folder in the layout of deb63k. Each engine is built and searched in a process of its own, one after another; one
caller thread. Esker is searched again after each of the others. Times are of one query after another; engines that take many
queries in one call are timed that way too, one thread, so that Python costs nothing. Writes benches/results/curves-SET.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engines import ENGINES, build
from harness import K, RESULTS, SEARCH_MEMORY, Esker, binaries, live, machine, save, say, times_of
from truth import Truth

TARGETS = (0.9, 0.95, 0.98, 0.99)
# Settings beyond one that reaches this, or that brings less than this over the one before, are of no interest.
ENOUGH = 0.995
GAIN = 0.001


def measure(engine, truth, rounds):
    """One row for each setting, in their order, while more of it finds more."""
    rows, best, done = [], {}, set()
    for setting in engine.settings():
        # Settings differ in their first value and, for each of the others, run upwards.
        others = tuple(list(setting.values())[1:])
        if others in done:
            continue
        engine.search(setting, truth.queries[:50], K)
        speeds, batches = [], []
        for _ in range(rounds):
            milliseconds, found = [], []
            for i in range(len(truth.queries)):
                began = time.perf_counter()
                found += engine.search(setting, truth.queries[i : i + 1], K)
                milliseconds.append((time.perf_counter() - began) * 1000)
            speeds.append(times_of(milliseconds))
            if engine.batches:
                began = time.perf_counter()
                engine.search(setting, truth.queries, K)
                batches.append(len(truth.queries) / (time.perf_counter() - began))
        row = {"setting": setting, "recall": truth.judge("none", found, K)["recall"]}
        row.update({key: statistics.median(s[key] for s in speeds) for key in speeds[0]})
        if batches:
            row["batch_qps"] = statistics.median(batches)
        rows.append(row)
        if row["recall"] >= ENOUGH or row["recall"] < best.get(others, 0) + GAIN:
            done.add(others)
        best[others] = max(row["recall"], best.get(others, 0))
    return rows


def child(name, truth, rounds):
    """What the process of one engine prints."""
    with tempfile.TemporaryDirectory() as scratch:
        engine = build(name, truth, Path(scratch) / name)
        out = {"engine": name, "version": engine.version, "about": engine.about}
        out |= {"build_s": engine.build_s, "bytes": engine.bytes, "curve": measure(engine, truth, rounds)}
    out["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(out))


class Turns:
    """This engine: state held in memory, ids and distances, for the recalls one may ask for. Measured before the others and
    again after each of them, as hours lie between and the machine may not stay as fast; medians of these turns."""

    def __init__(self, binary, truth, store, vector_type, memory):
        self.esker, self.truth, self.rows = Esker(binary, store), truth, {target: [] for target in TARGETS}
        version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split()[-1]
        self.out = {"engine": "esker", "version": version, "about": f"{vector_type}, in memory"}
        if not Path(store).exists():
            self.esker("import", truth.base_file, "--into", "set", "--vector-type", vector_type, "--metric", "cosine")
            _, used = self.esker.measured("--memory", memory, "compact", "set")
            self.out |= {"build_s": used["wall_s"], "build_rss_bytes": used["rss_bytes"]}
        self.out["bytes"], _ = live(self.esker, "set")

    def turn(self):
        for target, rows in self.rows.items():
            arguments = ["-k", K, "--limit", len(self.truth.queries), "--min-recall", target]
            done, _ = self.esker("--memory", SEARCH_MEMORY, "eval", "set", self.truth.query_file, *arguments)
            rows.append(done["memory"])

    def result(self):
        curve = []
        for target, rows in self.rows.items():
            row = {"setting": {"min_recall": target}, "recall": rows[-1]["recall"]}
            row |= {key: statistics.median(r[key] for r in rows) for key in ("qps", "p50_ms", "p99_ms")}
            curve.append(row | {"turns_qps": [round(r["qps"]) for r in rows]})
        return self.out | {"curve": curve}


def other(name, args):
    """What the process of another engine measured."""
    options = ["--child", name, "--rounds", args.rounds, "--queries", args.queries]
    command = [sys.executable, __file__, args.set, *options]
    out = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if out.returncode:
        sys.exit(f"error: {name} failed on {args.set}")
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    binaries(parser)
    parser.add_argument("--others", default="hnswlib,faiss,lancedb,infino")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--memory", default="3GiB", help="memory of compaction")
    parser.add_argument("--vector-type", default="f32", help="of Esker's collection; the others' are in engines.py")
    parser.add_argument("--store", type=Path, help="a store that holds the set already, as collection `set`")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    truth = Truth(args.set, args.queries)
    if args.child:
        return child(args.child, truth, args.rounds)

    result = {"set": truth.name, "rows": truth.rows, "dimension": truth.dimension, "k": K}
    result |= {"machine": machine(), "queries": len(truth.queries), "rounds": args.rounds}
    names = list(filter(None, args.others.split(",")))
    if unknown := [name for name in names if name not in ENGINES]:
        parser.error(f"no engine is called {unknown[0]}: there are {', '.join(ENGINES)}")
    others, out = [], args.out or RESULTS / f"curves-{truth.name}.json"
    part = out.with_suffix(".part")

    def turn():
        esker.turn()
        for engine in (esker.result(), *others[-1:]):
            for row in engine["curve"]:
                say(f"  {row['setting']}: recall {row['recall']:.4f}, {row.get('batch_qps', row['qps']):,.0f}/s")
        # Hours may lie between two engines: what is measured is kept.
        result["engines"] = [esker.result(), *others]
        save(part, result)

    with tempfile.TemporaryDirectory() as scratch:
        say(f"{truth.name}: esker")
        esker = Turns(args.esker, truth, args.store or Path(scratch) / "store", args.vector_type, args.memory)
        turn()
        for name in names:
            say(f"{truth.name}: {name}")
            others.append(other(name, args))
            turn()
    part.replace(out)
    say(f"{out} written")


if __name__ == "__main__":
    main()
