"""LanceDB with its IVF_RQ index: the peer that searches are measured against, in the same run.

Index parameters are LanceDB's own defaults; `sqrt` partitions are tried too. nprobes and refine_factor are its two
documented knobs for recall: the fastest setting that reaches the recall wanted on these queries is taken. Queries go one
after another from one thread; LanceDB may use more threads inside.
"""

import itertools
import math
import statistics
import time

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.index import IvfRq

# nprobes × refine_factor, and the number of queries that choose among them.
SETTINGS = list(itertools.product((10, 20, 40), (3, 5, 10)))
SAMPLE = 100
VECTORS = {"f16": pa.float16(), "f32": pa.float32()}


class Peer:
    def __init__(self, folder, truth, vector_type, partitions):
        self.label = {"vector_type": vector_type, "num_partitions": partitions or "default"}
        self.folder, self.truth = folder, truth
        table = pq.read_table(truth.base_file)
        values = table["vector"].combine_chunks().flatten().cast(VECTORS[vector_type])
        vector = pa.FixedSizeListArray.from_arrays(values, truth.dimension)
        table = table.set_column(table.column_names.index("vector"), "vector", vector)
        database = lancedb.connect(folder)
        began = time.perf_counter()
        self.table = database.create_table("deb", table)
        self.ingest_s = time.perf_counter() - began
        began = time.perf_counter()
        self.table.create_index("vector", config=IvfRq(distance_type="cosine", num_partitions=partitions))
        self.index_s = time.perf_counter() - began

    def search(self, setting, queries, k):
        """Ids and milliseconds of each query."""
        nprobes, refine = setting
        found, times = [], []
        for query in queries:
            began = time.perf_counter()
            search = self.table.search(query).distance_type("cosine").nprobes(nprobes).limit(k)
            ids = search.refine_factor(refine).select(["id", "_distance"]).to_arrow()["id"].to_pylist()
            times.append((time.perf_counter() - began) * 1000)
            found.append(ids)
        return found, times

    def tune(self, k, recall):
        """Settings that seem to reach the recall, with their speed, over the first queries."""
        out = []
        for setting in SETTINGS:
            found, times = self.search(setting, self.truth.queries[:SAMPLE], k)
            judged = self.truth.judge("none", found, k)["recall"]
            row = {**self.label, "nprobes": setting[0], "refine_factor": setting[1], "recall": judged}
            # The lower quartile: what else the machine does must not choose.
            out.append({**row, "p25_ms": statistics.quantiles(times, n=4)[0]})
        return [row for row in out if row["recall"] >= recall - 0.01]


def fastest(folder, truth, k, recall):
    """The peer in its fastest form that reaches the recall over all queries, its setting, and what was tried."""
    tried = []
    for vector_type, partitions in itertools.product(VECTORS, (None, round(math.sqrt(truth.rows)))):
        peer = Peer(folder / f"{vector_type}-{partitions or 'default'}", truth, vector_type, partitions)
        tried += [(row, peer) for row in peer.tune(k, recall)]
    tried.sort(key=lambda pair: pair[0]["p25_ms"])
    for row, peer in tried:
        setting = row["nprobes"], row["refine_factor"]
        found, _ = peer.search(setting, truth.queries, k)
        if truth.judge("none", found, k)["recall"] >= recall:
            return peer, setting, [row for row, _ in tried]
    raise SystemExit(f"error: no setting of the peer reaches recall {recall}")
