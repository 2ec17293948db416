#!/usr/bin/env python3
"""Writes a generated set in the layout of deb63k: generate.py KIND ROWS DIM FOLDER [--seed N] [--queries N]

    base.parquet, queries.parquet, ground_truth.json             queries of the same distribution as the rows
    near/queries.parquet, near/ground_truth.json                 queries close to one place, for filters that follow space

KIND, vectors of unit length, cosine (a spectrum with power a: the variance of direction i is as i^-a, randomly rotated):
  easy       a Gaussian, a = 1.4. An exact inverted file with 4·√N lists needs about as many as for gist-960
  hard       a Gaussian, a = 1.0. More lists than any of the published sets of INDEX §6 needs
  clustered  one Gaussian (a = 1) around each of N/1000 centres (a = 1); sizes fall as the root of the rank

Columns: id, vector (list of float), section (the nearest of 50 directions), kb (log-normal), tags (one to four of 300), and
for the filter grid `random` and `near`, whole numbers from 0 to 9999 that as many rows have each: `random < 10` passes 0.1 %
of all rows, `near < 10` those 0.1 % that are nearest to one place, `near >= 9990` those that are farthest from it. The
queries under near/ are the nearest to this place of a larger draw, so `near < x` is a filter that goes with the query and
`near >= x` one that goes against it.

True answers are exact: float32 products with all rows, the 20 nearest for every filter. The same arguments give the
same rows: rows are drawn in blocks, each from its own seed. Memory does not depend on ROWS, up to 4 bytes for each.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 20_000
TOP = 20
STEPS = 10_000
SHARES = [5000, 1000, 100, 10, 1]  # of STEPS: 50, 10, 1, 0.1 and 0.01 %
ALPHA = {"easy": 1.4, "hard": 1.0, "clustered": 1.0}
SPREAD = 0.7
GRID_QUERIES = 200

SCHEMA = [
    ("id", pa.string()),
    ("section", pa.string()),
    ("kb", pa.int64()),
    ("tags", pa.list_(pa.string())),
    ("random", pa.int64()),
    ("near", pa.int64()),
]


def spectrum(dim, alpha):
    """Standard deviations of the directions; the expected squared length is 1."""
    deviations = np.arange(1, dim + 1) ** (-alpha / 2)
    return (deviations / np.sqrt(np.sum(deviations**2))).astype(np.float32)


class Source:
    """Rows and queries before the rotation, block by block."""

    def __init__(self, kind, rows, dim, seed, alpha=None):
        self.kind, self.rows, self.dim, self.seed = kind, rows, dim, seed
        self.deviations = spectrum(dim, alpha or ALPHA[kind])
        random = np.random.default_rng([seed, 0])
        square = random.standard_normal((dim, dim))
        self.rotation = np.linalg.qr(square)[0].astype(np.float32)
        directions = random.standard_normal((dim, 50), dtype=np.float32) * self.deviations[:, None]
        self.directions = directions / np.linalg.norm(directions, axis=0)
        self.centres = None
        if kind == "clustered":
            count = max(10, rows // 1000)
            self.centres = random.standard_normal((count, dim), dtype=np.float32) * self.deviations
            sizes = np.arange(1, count + 1) ** -0.5
            self.sizes = sizes / sizes.sum()
        self.place = self.draw(random, 1)[0]

    def draw(self, random, n):
        out = random.standard_normal((n, self.dim), dtype=np.float32) * self.deviations
        if self.centres is not None:
            out *= SPREAD
            out += self.centres[random.choice(len(self.centres), n, p=self.sizes)]
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out

    def blocks(self):
        for index, first in enumerate(range(0, self.rows, BLOCK)):
            random = np.random.default_rng([self.seed, 1, index])
            yield first, self.draw(random, min(BLOCK, self.rows - first))

    def queries(self, count):
        """Queries, and the nearest to the place of five times as many others."""
        usual = self.draw(np.random.default_rng([self.seed, 2]), count)
        others = self.draw(np.random.default_rng([self.seed, 3]), 25 * GRID_QUERIES)
        return usual, others[np.argsort(-(others @ self.place))[:GRID_QUERIES]]


def metadata(source, random_column, near_column):
    """The other columns of rows [first, first + n), given their vectors before the rotation."""
    words = [f"tag-{i:03}" for i in range(300)]

    def of(first, block):
        n = len(block)
        random = np.random.default_rng([source.seed, 4, first])
        section = np.argmax(block @ source.directions, axis=1)
        count = random.integers(1, 5, n)
        tags = np.minimum(random.zipf(1.3, (n, 4)) - 1, 299)
        return {
            "id": [f"row-{i:09}" for i in range(first, first + n)],
            "section": [f"section {s:02}" for s in section],
            "kb": np.maximum(1, random.lognormal(6, 2, n)).astype(np.int64),
            "tags": [[words[t] for t in dict.fromkeys(row[:c])] for row, c in zip(tags, count)],
            "random": random_column[first : first + n],
            "near": near_column[first : first + n],
        }

    return of


def steps(order, rows):
    """For each row the step of its place in an order, as many rows in each step."""
    out = np.empty(rows, dtype=np.int64)
    out[order] = np.arange(rows) * STEPS // rows
    return out


def passing(columns):
    """The filters: predicate, the rows of a block that pass."""
    out = {"none": slice(None)}
    for share in SHARES:
        out[f"random < {share}"] = columns["random"] < share
        out[f"near < {share}"] = columns["near"] < share
        out[f"near >= {STEPS - share}"] = columns["near"] >= STEPS - share
    return out


class Nearest:
    """The nearest rows of each query so far."""

    def __init__(self, queries):
        self.similarity = np.full((queries, TOP), -np.inf, dtype=np.float32)
        self.row = np.full((queries, TOP), -1, dtype=np.int64)
        self.matches = 0

    def add(self, similarity, rows):
        self.matches += len(rows)
        if len(rows) > 4 * TOP:
            best = np.argpartition(-similarity, TOP, axis=1)[:, :TOP]
            similarity, rows = np.take_along_axis(similarity, best, axis=1), rows[best]
        else:
            rows = np.broadcast_to(rows, similarity.shape)
        similarity = np.concatenate([self.similarity, similarity], axis=1)
        rows = np.concatenate([self.row, rows], axis=1)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :TOP]
        self.similarity = np.take_along_axis(similarity, order, axis=1)
        self.row = np.take_along_axis(rows, order, axis=1)

    def answer(self):
        ids = [[f"row-{i:09}" for i in row if i >= 0] for row in self.row]
        return {"matches": self.matches, "ids": ids}


def write_queries(path, vectors):
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"vector": column}), path, use_dictionary=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=ALPHA)
    parser.add_argument("rows", type=int)
    parser.add_argument("dim", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--alpha", type=float, help="another power of the spectrum")
    args = parser.parse_args()

    source = Source(args.kind, args.rows, args.dim, args.seed, args.alpha)
    similarity = np.concatenate([block @ source.place for _, block in source.blocks()])
    near = steps(np.argsort(-similarity, kind="stable"), args.rows)
    random = steps(np.random.default_rng([args.seed, 5]).permutation(args.rows), args.rows)
    columns_of = metadata(source, random, near)

    sets = dict(zip(("", "near"), (q @ source.rotation for q in source.queries(args.queries))))
    found = {name: {} for name in sets}
    schema = pa.schema([*SCHEMA, ("vector", pa.list_(pa.float32(), args.dim))])
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.folder / "base.parquet"
    compression = {name: "zstd" for name, _ in SCHEMA if name != "tags"}
    with pq.ParquetWriter(base, schema, use_dictionary=["section"], compression=compression) as writer:
        for first, block in source.blocks():
            columns = columns_of(first, block)
            block = block @ source.rotation
            columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), args.dim)
            writer.write_table(pa.table([columns[f.name] for f in schema], schema=schema), BLOCK)
            rows = np.arange(first, first + len(block))
            for name, queries in sets.items():
                products = queries @ block.T
                for predicate, mask in passing(columns).items():
                    # The grid's random filters go with the usual queries, the others with those near the place.
                    if predicate == "none" or (predicate.startswith("near") == (name == "near")):
                        few = products if predicate == "none" else products[:GRID_QUERIES]
                        nearest = found[name].setdefault(predicate, Nearest(len(few)))
                        nearest.add(few[:, mask], rows[mask])
    for name, queries in sets.items():
        write_queries(args.folder / name / "queries.parquet", queries)
        answers = {predicate: nearest.answer() for predicate, nearest in found[name].items()}
        (args.folder / name / "ground_truth.json").write_text(json.dumps(answers), "utf-8")


if __name__ == "__main__":
    main()
