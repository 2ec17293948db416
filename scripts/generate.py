#!/usr/bin/env python3
"""Writes a Parquet file of clustered vectors: generate.py ROWS DIM OUT.parquet [--seed N]

Columns: id, vector (list of float), section (text, 50 values), year (int). Rows are made and written in parts, so memory
does not depend on ROWS. Needs numpy and pyarrow.
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PART = 20_000
CENTRES = 1_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int)
    parser.add_argument("dim", type=int)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    random = np.random.default_rng(args.seed)
    centres = random.standard_normal((CENTRES, args.dim), dtype=np.float32)
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("vector", pa.list_(pa.float32(), args.dim)),
            ("section", pa.string()),
            ("year", pa.int64()),
        ]
    )
    with pq.ParquetWriter(args.out, schema, use_dictionary=["section"], compression="snappy") as writer:
        for first in range(0, args.rows, PART):
            n = min(PART, args.rows - first)
            centre = random.integers(0, CENTRES, n)
            vectors = centres[centre] + 0.7 * random.standard_normal((n, args.dim), dtype=np.float32)
            columns = [
                pa.array([f"row-{first + i:09}" for i in range(n)]),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), args.dim),
                pa.array([f"section {c % 50}" for c in centre]),
                pa.array(random.integers(1900, 2026, n)),
            ]
            writer.write_table(pa.table(columns, schema=schema))


if __name__ == "__main__":
    main()
