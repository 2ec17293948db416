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

SEARCHED = ("p50", "p99")


def asked(esker, truth, predicate, queries):
    """All queries of one filter, or of none."""
    filtered = [] if predicate == "none" else ["--filter", predicate]
    return esker("--memory", SEARCH_MEMORY, "eval", "set", truth.query_file, "-k", K, "--limit", queries, "--ids", *filtered)[0]


def cell(truth, predicate, runs, plain):
    """One filter: recall by the last run; of each quantile the least of all runs, since what else a machine does only adds."""
    done = runs[-1]
    judged = truth.judge(predicate, done["ids"], K)
    row = {
        "filter": predicate,
        "matches": truth.matches(predicate),
        "recall": judged["recall"],
        "wanted_rows": judged["wanted_rows"],
        "min_rows": min(len(ids) for ids in done["ids"]),
        "full_share": sum(len(ids) == judged["wanted_rows"] for ids in done["ids"]) / len(done["ids"]),
        "memory_recall": done["memory"]["recall"],
        "memory_min_rows": done["memory"]["min_rows"],
    }
    for how, part in (("memory", lambda r: r["memory"]), ("strong", lambda r: r)):
        for key in SEARCHED:
            own, without = (min(part(r)[f"{key}_ms"] for r in of) for of in (runs, plain))
            row |= {f"{how}_{key}_ms": own, f"{how}_{key}_unfiltered_ms": without, f"{how}_{key}_ratio": own / without}
    return row


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
    result |= {"machine": machine(), "rounds": args.rounds, "cells": []}
    with tempfile.TemporaryDirectory(dir=args.store and args.store.parent) as scratch:
        store = args.store or Path(scratch) / "store"
        esker = Esker(args.esker, store)
        if not store.exists():
            built(esker, truth, "f32", args.memory, scratch)
        for part in (".", "near"):
            truth = Truth(args.set, args.queries, part)
            # In turns, as a machine is faster at one time than at another.
            runs = {predicate: [] for predicate in truth.filters()}
            for _ in range(args.rounds):
                for predicate, done in runs.items():
                    done.append(asked(esker, truth, predicate, args.queries))
            plain = runs.pop("none")
            for predicate, done in runs.items():
                row = cell(truth, predicate, done, plain)
                row["share"], row["kind"] = share(predicate)
                say(
                    f"{row['kind']} {row['share']:.2%}: recall {row['recall']:.4f}, {row['full_share']:.0%} full, p99 "
                    f"{row['memory_p99_ratio']:.2f} times in memory, {row['strong_p99_ratio']:.2f} strong"
                )
                result["cells"].append(row)
    save(args.out or RESULTS / f"grid-{truth.name}.json", result)


if __name__ == "__main__":
    main()
