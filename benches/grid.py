#!/usr/bin/env python3
"""The filter grid of a generated set: grid.py SET [options]

Filters that pass 50, 10, 1, 0.1 and 0.01 % of the rows: at random, those nearest to the place where the queries are, and
those farthest from it. For each cell recall against the true answers, rows brought, and times beside the same queries
without a filter. Writes benches/results/grid-SET.json.
"""

import argparse
import tempfile
from pathlib import Path

from harness import K, RESULTS, SEARCH_MEMORY, Esker, binaries, machine, save, say
from large import built
from truth import Truth

SEARCHED = ("p50_ms", "p99_ms")


def cell(esker, truth, predicate, queries, rounds):
    """One filter: recall by the last run; of each quantile the least of all runs, since what else a machine does only adds."""
    rows = []
    for _ in range(rounds):
        arguments = ["set", truth.query_file, "-k", K, "--limit", queries, "--ids"]
        done, _ = esker("--memory", SEARCH_MEMORY, "eval", *arguments, *(["--filter", predicate] if predicate != "none" else []))
        rows.append(done)
    judged = truth.judge(predicate, done["ids"], K)
    fewest = min(len(ids) for ids in done["ids"])
    full = sum(len(ids) == judged["wanted_rows"] for ids in done["ids"]) / len(done["ids"])
    best = lambda part, key: min(part(r)[key] for r in rows)
    return {
        "filter": predicate,
        "matches": truth.matches(predicate),
        "recall": judged["recall"],
        "wanted_rows": judged["wanted_rows"],
        "min_rows": fewest,
        "full_share": full,
        "memory_recall": done["memory"]["recall"],
        "memory_min_rows": done["memory"]["min_rows"],
        **{f"memory_{key}": best(lambda r: r["memory"], key) for key in SEARCHED},
        **{f"strong_{key}": best(lambda r: r, key) for key in SEARCHED},
    }


def share(predicate):
    """What part of the rows passes, and how the filter lies to the queries."""
    column, sign, bound = predicate.split()
    if sign == ">=":
        return (10_000 - int(bound)) / 10_000, "against"
    return int(bound) / 10_000, "random" if column == "random" else "with"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    binaries(parser)
    parser.add_argument("--store", type=Path, help="keep the store here, or use the one that is here")
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    truth = Truth(args.set)
    result = {"set": truth.name, "rows": truth.rows, "dimension": truth.dimension, "k": K, "queries": args.queries}
    result |= {"machine": machine(), "rounds": args.rounds, "cells": [], "unfiltered": {}}
    with tempfile.TemporaryDirectory(dir=args.store and args.store.parent) as scratch:
        store = args.store or Path(scratch) / "store"
        esker = Esker(args.esker, store)
        if not store.exists():
            built(esker, truth, "f32", args.memory, scratch)
        for part in (".", "near"):
            truth = Truth(args.set, args.queries, part)
            for predicate in truth.filters():
                row = cell(esker, truth, predicate, args.queries, args.rounds)
                if predicate == "none":
                    result["unfiltered"][part] = plain = row
                    continue
                row["share"], row["kind"] = share(predicate)
                for key in ("memory_p50", "memory_p99", "strong_p50", "strong_p99"):
                    row[f"{key}_ratio"] = row[f"{key}_ms"] / plain[f"{key}_ms"]
                say(
                    f"{row['kind']} {row['share']:.2%}: recall {row['recall']:.4f}, {row['full_share']:.0%} full, p99 "
                    f"{row['memory_p99_ratio']:.2f} times in memory, {row['strong_p99_ratio']:.2f} strong"
                )
                result["cells"].append(row)
    save(args.out or RESULTS / f"grid-{truth.name}.json", result)


if __name__ == "__main__":
    main()
