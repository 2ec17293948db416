"""A data set with its true answers, and how answers are judged against them.

base.parquet and queries.parquet have the columns id (base), vector and metadata; for each filter ground_truth.json has the
number of matching rows and, for each query (or the first of them), the ids of the 20 nearest of them under cosine distance,
nearest first. deb63k came with its answers; generate.py writes the same layout.
"""

import functools
import json
import statistics

import duckdb
import numpy as np
import pyarrow.parquet as pq

# Distances that differ by less are ties. Sums of 384 products of binary32 differ by about this.
TIE = 2e-6


class Truth:
    """`part` is a folder of other queries and answers over the same rows."""

    def __init__(self, folder, limit=None, part="."):
        self.folder = folder
        self.base_file = folder / "base.parquet"
        self.query_file = folder / part / "queries.parquet"
        self.answers = json.loads((folder / part / "ground_truth.json").read_text("utf-8"))
        self.generated = (folder / "near").exists()
        self.name = "deb63k" if not self.generated else folder.name
        self.rows = pq.read_metadata(self.base_file).num_rows
        self.queries = vectors(pq.read_table(self.query_file, columns=["vector"]))[:limit]
        self.dimension = self.queries.shape[1]
        self.unit_queries = unit(self.queries)

    @functools.cached_property
    def ids(self):
        return pq.read_table(self.base_file, columns=["id"])["id"].to_pylist()

    @functools.cached_property
    def place(self):
        return {id: i for i, id in enumerate(self.ids)}

    @functools.cached_property
    def base(self):
        """All rows at unit length, float32."""
        out = np.empty((self.rows, self.dimension), dtype=np.float32)
        first = 0
        for batch in pq.ParquetFile(self.base_file).iter_batches(20_000, columns=["vector"]):
            part = np.asarray(batch.column(0).flatten()).reshape(len(batch), -1)
            out[first : first + len(batch)] = part
            first += len(batch)
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out

    def filters(self):
        """`none`, then the predicates, as they stand in the file."""
        return list(self.answers)

    def matches(self, name):
        return self.answers[name]["matches"]

    @functools.cache
    def passing(self, name):
        """Ids that pass a filter, by DuckDB."""
        if name == "none":
            return set(self.place)
        rows = duckdb.execute(f"SELECT id FROM read_parquet('{self.base_file}') WHERE {name}").fetchall()
        passing = {id for (id,) in rows}
        assert len(passing) == self.matches(name), f"DuckDB finds {len(passing)} rows for {name}"
        return passing

    def judge(self, name, found, k):
        """Recall@k of one list of ids a query, and the fewest rows. In deb63k texts occur twice: rows as near as the k-th
        true one count. Generated rows do not tie, and an answer must be among the true ones."""
        wanted = min(k, self.matches(name))
        good = self.tied if not self.generated else self.among
        recalls = [min(good(name, i, ids, wanted), wanted) / wanted for i, ids in enumerate(found)]
        return {"recall": statistics.mean(recalls), "min_rows": min(map(len, found)), "wanted_rows": wanted}

    def among(self, name, query, ids, wanted):
        return len(set(ids) & set(self.answers[name]["ids"][query][:wanted]))

    def tied(self, name, query, ids, wanted):
        true, passing, ids = self.answers[name]["ids"][query], self.passing(name), list(set(ids))
        near = 1 - self.base[[self.place[id] for id in ids]] @ self.unit_queries[query] if ids else []
        bound = 1 - self.base[self.place[true[wanted - 1]]] @ self.unit_queries[query]
        return sum(bool(d <= bound + TIE) and id in passing for id, d in zip(ids, near))


def vectors(table):
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1).astype(np.float32)


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
