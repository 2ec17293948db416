"""The engines that searches are measured beside, each behind the same four calls.

An engine is built from a Truth in a folder, offers settings, the ones most likely to matter first, and answers queries
one after another from one thread of the caller. `build_s` is what it takes from vectors in memory to an index that can be
searched, `bytes` what lies in its folder, or would if it were saved. Their own defaults hold where nothing is said.

faiss and hnswlib hold everything in memory and answer with row numbers; LanceDB and infino keep files, and are read
through their Python clients, ids included. These two may use more threads inside.
"""

import itertools
import math
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import size_of


class Hnswlib:
    """An HNSW graph, M = 16, ef_construction = 200, over unit vectors. Built by all cores, searched by one."""

    batches = True

    def __init__(self, truth, folder):
        import hnswlib

        self.version = "0.8.0"  # the module does not say
        self.about = "HNSW, M = 16, ef_construction = 200"
        began = time.perf_counter()
        base = truth.base
        self.loaded_s = time.perf_counter() - began
        began = time.perf_counter()
        self.index = hnswlib.Index(space="ip", dim=truth.dimension)
        self.index.init_index(max_elements=truth.rows, M=16, ef_construction=200, random_seed=1)
        self.index.add_items(base, num_threads=os.cpu_count())
        self.build_s = time.perf_counter() - began
        self.index.save_index(str(folder / "hnsw.bin"))
        self.index.set_num_threads(1)
        self.bytes = size_of(folder)
        self.ids = truth.ids

    def settings(self):
        return [{"ef": ef} for ef in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)]

    def search(self, setting, queries, k):
        self.index.set_ef(max(setting["ef"], k))
        rows, _ = self.index.knn_query(queries, k=k)
        return [[self.ids[r] for r in row] for row in rows]


class Faiss:
    """IVF-PQ fast-scan (4 bits for each two dimensions) with exact vectors beside it, over unit vectors."""

    batches = True

    def __init__(self, truth, folder):
        import faiss

        self.version = faiss.__version__
        lists = 2 ** round(math.log2(4 * math.sqrt(truth.rows)))
        self.about = f"IVF{lists},PQ{truth.dimension // 2}x4fs,RFlat"
        base = truth.base
        began = time.perf_counter()
        self.index = faiss.index_factory(truth.dimension, self.about, faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(1).permutation(truth.rows)[: 50 * lists]
        self.index.train(base[np.sort(sample)])
        for first in range(0, truth.rows, 100_000):
            self.index.add(base[first : first + 100_000])
        self.build_s = time.perf_counter() - began
        faiss.write_index(self.index, str(folder / "faiss.bin"))
        self.bytes = size_of(folder)
        faiss.omp_set_num_threads(1)
        self.inner = faiss.extract_index_ivf(self.index.base_index)
        self.ids = truth.ids

    def settings(self):
        probes = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
        return [{"nprobe": n, "k_factor": f} for n, f in itertools.product(probes, (3, 10, 30, 100))]

    def search(self, setting, queries, k):
        self.inner.nprobe = setting["nprobe"]
        self.index.k_factor = setting["k_factor"]
        _, rows = self.index.search(queries, k)
        return [[self.ids[r] for r in row if r >= 0] for row in rows]


def payload(truth, text):
    """The metadata that all engines can hold: strings, as `text`, and whole numbers."""
    kinds = {pa.string(): text, pa.int64(): pa.int64()}
    schema = pq.read_schema(truth.base_file)
    return [pa.field(f.name, kinds[f.type], nullable=f.name != "id") for f in schema if f.type in kinds]


def parts(truth, schema):
    """The rows as Arrow, in parts."""
    for batch in pq.ParquetFile(truth.base_file).iter_batches(50_000, columns=schema.names):
        columns = []
        for field in schema:
            column = batch.column(field.name)
            if field.name == "vector":
                values = column.flatten().cast(field.type.value_type)
                columns.append(pa.FixedSizeListArray.from_arrays(values, type=field.type))
            else:
                columns.append(column.cast(field.type))
        yield pa.record_batch(columns, schema=schema)


class LanceDB:
    """IVF_RQ, cosine, the default number of partitions; vectors as f16 where the data set has them so."""

    batches = False

    def __init__(self, truth, folder, options=None):
        import lancedb
        from lancedb.index import IvfRq

        self.version = lancedb.__version__
        vector_type = pa.float32() if truth.generated else pa.float16()
        self.about = f"IVF_RQ over {vector_type}, default partitions"
        database = lancedb.connect(str(folder), storage_options=options)
        vector = pa.list_(pa.field("item", vector_type, nullable=False), truth.dimension)
        schema = pa.schema([*payload(truth, pa.string()), ("vector", vector)])
        began = time.perf_counter()
        self.table = database.create_table("rows", parts(truth, schema), schema=schema)
        self.table.create_index("vector", config=IvfRq(distance_type="cosine"))
        self.build_s = time.perf_counter() - began
        self.bytes = size_of(folder) if options is None else None

    def settings(self):
        return [{"nprobes": n, "refine_factor": f} for n, f in itertools.product((10, 20, 40, 80, 160), (3, 10, 30))]

    def search(self, setting, queries, k):
        return [self.one(self.table, query, k, **setting).to_arrow()["id"].to_pylist() for query in queries]

    @staticmethod
    def one(table, query, k, nprobes, refine_factor, columns=("id",)):
        search = table.search(query).distance_type("cosine").nprobes(nprobes).limit(k)
        return search.refine_factor(refine_factor).select([*columns, "_distance"])

    @staticmethod
    def open(folder, options):
        """The table, by a process that knows nothing yet."""
        import lancedb

        return lancedb.connect(folder, storage_options=options).open_table("rows")

    @classmethod
    def first(cls, table, query, k, columns, setting):
        return cls.one(table, query, k, **setting, columns=columns).to_arrow()


class Infino:
    """Its vector index, cosine; the Python client has no setting for recall."""

    batches = False

    def __init__(self, truth, folder, options=None):
        import importlib.metadata

        import infino

        self.version = importlib.metadata.version("infino")
        self.about = "its vector index, optimized"
        database = infino.connect(str(folder), storage_options=options)
        vector = pa.list_(pa.field("item", pa.float32(), nullable=False), truth.dimension)
        fields = [*payload(truth, pa.large_utf8()), pa.field("vector", vector, nullable=False)]
        schema = pa.schema(fields)
        began = time.perf_counter()
        index = infino.IndexSpec().vector("vector", truth.dimension, "cosine")
        self.table = database.create_table("rows", schema, index)
        for part in parts(truth, schema):
            self.table.append(part)
        self.table.optimize()
        self.build_s = time.perf_counter() - began
        self.bytes = size_of(folder) if options is None else None

    def settings(self):
        return [{}]

    def search(self, setting, queries, k):
        found = (self.table.vector_search("vector", query, k, projection=["id"]) for query in queries)
        return [table["id"].to_pylist() for table in found]

    @staticmethod
    def open(folder, options):
        import infino

        return infino.connect(folder, storage_options=options).open_table("rows")

    @staticmethod
    def first(table, query, k, columns, setting):
        return table.vector_search("vector", query, k, projection=list(columns))


ENGINES = {"hnswlib": Hnswlib, "faiss": Faiss, "lancedb": LanceDB, "infino": Infino}


def build(name, truth, folder):
    """The engine over files on this machine."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return ENGINES[name](truth, folder)
