"""The data set deb63k and its true answers.

base.parquet and queries.parquet have the columns id, vector (halffloat[384], unit length) and metadata; for each filter
ground_truth.json has the number of matching rows and, for each query, the ids of the 20 nearest of them under cosine
distance, nearest first.
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
    def __init__(self, folder, limit=None):
        self.base_file = folder / "base.parquet"
        self.query_file = folder / "queries.parquet"
        self.answers = json.loads((folder / "ground_truth.json").read_text("utf-8"))
        table = pq.read_table(self.base_file, columns=["id", "vector"])
        self.rows = len(table)
        self.place = {id: i for i, id in enumerate(table["id"].to_pylist())}
        self.base = unit(vectors(table))
        self.queries = vectors(pq.read_table(self.query_file))[:limit]
        self.dimension = self.base.shape[1]
        self.unit_queries = unit(self.queries)

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
        """Recall@k of one list of ids a query (those as near as the k-th true one count), and the fewest rows."""
        passing, wanted = self.passing(name), min(k, self.matches(name))
        recalls = []
        for query, ids, true in zip(self.unit_queries, found, self.answers[name]["ids"]):
            rows = [self.place[id] for id in set(ids)]
            near = 1 - self.base[rows] @ query if rows else []
            bound = 1 - self.base[self.place[true[wanted - 1]]] @ query
            good = sum(d <= bound + TIE and id in passing for id, d in zip(set(ids), near))
            recalls.append(min(good, wanted) / wanted)
        return {"recall": statistics.mean(recalls), "min_rows": min(map(len, found)), "wanted_rows": wanted}


def vectors(table):
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1).astype(np.float32)


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
