#!/usr/bin/env python3
"""First searches of fresh processes over S3, Esker beside LanceDB and infino: cold.py SET [options]

One S3 server, that of the tests, holds the three; it adds 50 ms to each request. Each search is a process of its own
that has nothing cached and answers with the ten rows' metadata; the engines take turns. "From the call" begins once the
program has started and its libraries are loaded: opening the table, then the search. Requests and bytes are those the
server counted; "rounds" is the longest chain of requests each of which began after the one before it was answered.
Writes benches/results/cold-SET.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow as pa

from engines import ENGINES, payload
from harness import K, LATENCY_MS, RESULTS, Esker, binaries, machine, s3_server, save, say
from truth import Truth

RECALL = 0.98
# LanceDB's settings from the cheapest; the first that reaches RECALL is taken.
SETTINGS = [(10, 3), (10, 5), (10, 10), (20, 5), (20, 10), (10, 30), (20, 30), (40, 30), (80, 30), (160, 30)]


def child(asked):
    """One search of a process that just started. What it prints is read by `searched`."""
    engine = ENGINES[asked["engine"]]
    __import__(asked["engine"])
    began = time.perf_counter()
    table = engine.open(asked["folder"], asked["options"])
    opened = time.perf_counter()
    found = engine.first(table, pa.array(asked["query"], pa.float32()).to_numpy(), K, asked["columns"], asked["setting"])
    done = time.perf_counter()
    assert set(asked["columns"]) <= set(found.column_names), found.column_names
    print(json.dumps({"took_ms": (done - began) * 1000, "open_ms": (opened - began) * 1000, "ids": found["id"].to_pylist()}))


class Server:
    def __init__(self, endpoint):
        self.endpoint = endpoint

    def get(self, path):
        return urllib.request.urlopen(f"{self.endpoint}/-/{path}").read().decode()

    def requests(self):
        """What the server was asked since the last `reset`."""
        rows = [json.loads(line) for line in self.get("requests").splitlines()]
        gets = [r for r in rows if r["method"] == "GET" and r["key"]]
        spans = sorted((r["at_us"] + r["took_us"], r["at_us"]) for r in rows)
        rounds, last = 0, -1
        for end, start in spans:
            if start >= last:
                rounds, last = rounds + 1, end
        return {"requests": len(rows), "gets": len(gets), "bytes": sum(r["bytes"] for r in gets), "rounds": rounds}


def searched(server, command, environment, parse):
    server.get("reset")
    began = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    wall = (time.perf_counter() - began) * 1000
    if done.returncode:
        sys.exit(f"error: {command}\n{done.stdout}{done.stderr}")
    return {"wall_ms": wall, **server.requests(), **parse(json.loads(done.stdout.splitlines()[-1]))}


def summary(runs, truth):
    out = {"recall": truth.judge("none", [r["ids"] for r in runs], K)["recall"]}
    for key in ("took_ms", "wall_ms", "requests", "gets", "bytes", "rounds"):
        values = sorted(r[key] for r in runs)
        out[key] = statistics.median(values) if key.endswith("_ms") else statistics.mean(values)
        out[f"p95_{key}"], out[f"most_{key}"] = values[int(0.95 * (len(values) - 1))], values[-1]
    return out


def reaching(engine, truth):
    """LanceDB's setting: the cheapest that reaches the recall, over 200 warm queries."""
    for nprobes, refine in SETTINGS:
        setting = {"nprobes": nprobes, "refine_factor": refine}
        recall = truth.judge("none", engine.search(setting, truth.queries[:200], K), K)["recall"]
        say(f"  {setting}: recall {recall:.4f}")
        if recall >= RECALL:
            break
    return setting


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    binaries(parser)
    parser.add_argument("--processes", type=int, default=30)
    parser.add_argument("--engines", default="esker,lancedb,infino")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.child:
        return child(json.load(sys.stdin if str(args.set) == "-" else open(args.set)))

    truth = Truth(args.set)
    result = {"set": truth.name, "rows": truth.rows, "dimension": truth.dimension, "k": K, "latency_ms": LATENCY_MS}
    result |= {"machine": machine(), "processes": args.processes, "engines": []}
    names = args.engines.split(",")
    with s3_server(args.s3_server) as (endpoint, environment), tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        server, everything = Server(endpoint), {**os.environ, **environment}
        options = {name.lower(): value for name, value in environment.items() if name != "AWS_ENDPOINT_URL"}
        options["aws_endpoint"] = endpoint
        about, settings, columns = {}, {}, [f.name for f in payload(truth, pa.string())]
        for name in names:
            say(f"{truth.name}: loading {name}")
            if name == "esker":
                esker = Esker(args.esker, "s3://esker/esker", environment)
                esker("doctor")
                kind = "f32" if truth.generated else "f16"
                esker("import", truth.base_file, "--into", "set", "--vector-type", kind, "--metric", "cosine", "--compact")
                about[name] = {"engine": name}
            else:
                engine = ENGINES[name](truth, f"s3://esker/{name}", options)
                settings[name] = reaching(engine, truth) if name == "lancedb" else {}
                about[name] = {"engine": name, "version": engine.version, "about": engine.about, "setting": settings[name]}
                del engine
        server.get(f"latency/{LATENCY_MS}")
        runs = {name: [] for name in names}
        for query in truth.queries[: args.processes]:
            query = [float(x) for x in query]
            for name in names:
                if name == "esker":
                    asked, parse = query, lambda r: {"took_ms": r["took_ms"], "ids": [h["id"] for h in r["hits"]]}
                    command = [args.esker, "--store", esker.store, "--format", "json", "search", "set", "-k", K]
                    command += ["--vector-file", file.name]
                else:
                    asked = {"engine": name, "folder": f"s3://esker/{name}", "options": options, "query": query}
                    asked |= {"columns": columns, "setting": settings[name]}
                    command, parse = [sys.executable, __file__, file.name, "--child"], lambda r: r
                file.seek(0)
                file.truncate()
                json.dump(asked, file)
                file.flush()
                runs[name].append(searched(server, command, everything, parse))
        for name in names:
            row = {**about[name], **summary(runs[name], truth)}
            say(f"{name}: {row['took_ms']:.0f} ms, {row['rounds']:.1f} rounds, {row['gets']:.0f} GETs, {row['bytes'] / 1e6:.2f} MB")
            result["engines"].append(row)
    save(args.out or RESULTS / f"cold-{truth.name}.json", result)


if __name__ == "__main__":
    main()
