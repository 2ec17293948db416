#!/usr/bin/env python3
"""Read what Esker wrote with libraries that know nothing of it, and compare with what was put in.

A small collection is imported, overwritten, deleted from, compacted and written to again. After every step fastavro
replays the log, pyarrow and DuckDB read each segment's rows, and the recipes of docs/format/reading.md, run as they
stand on that page, must find exactly the live rows. Usage: check-readers.py PATH-OF-ESKER
"""

import json
import random
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import fastavro
import pyarrow as pa
import pyarrow.parquet as pq

PAGE = Path(__file__).resolve().parent.parent / "docs/format/reading.md"
LINES = 10
TOPICS = ["music", "ocean", "history", None]


class Check:
    """The collection, what should be in it, and what was read so far."""

    def __init__(self, esker, folder, name, vector_type, dimension):
        self.esker, self.folder, self.name, self.dimension = esker, folder, name, dimension
        self.type = {"f32": pa.float32(), "f16": pa.float16()}[vector_type]
        self.random = random.Random(f"{name} {dimension}")
        folder.mkdir()
        self.store = folder / "store"
        self.root = self.store / "c" / f"{name}-1"
        self.live = {}  # id → row, as of the newest write
        self.folded = {}  # the same as of the newest compaction
        self.files = 0
        self.most_dead = 0

    # What is written.

    def run(self, *arguments):
        command = [self.esker, "--store", self.store, "--format", "json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def row(self, id):
        pick = self.random
        # Numbers that binary16 holds exactly, so that both vector types can be compared for equality.
        vector = [pick.randrange(-1024, 1025) / 512 for _ in range(self.dimension - 1)] + [1.0]
        return {
            "id": id,
            "vector": vector,
            "topic": pick.choice(TOPICS),
            "year": pick.choice([None, pick.randrange(1900, 2027)]),
            "rating": pick.randrange(0, 50) / 8,
            "featured": pick.random() < 0.5,
            "tags": pick.sample(["a", "b", "c", "d"], pick.randrange(0, 4)),
        }

    def write(self, ids):
        rows = [self.row(id) for id in ids]
        vector = pa.FixedSizeListArray.from_arrays(
            pa.array([x for r in rows for x in r["vector"]], pa.float32()).cast(self.type), self.dimension
        )
        columns = {key: [r[key] for r in rows] for key in rows[0] if key != "vector"}
        self.files += 1
        file = self.folder / f"{self.files}.parquet"
        pq.write_table(pa.table({**columns, "vector": vector}), file)
        self.run("import", file, "--into", self.name, "--id-column", "id")
        self.live.update((r["id"], r) for r in rows)

    def delete(self, ids):
        self.run("delete", self.name, *ids)
        for id in ids:
            self.live.pop(id, None)

    def compact(self):
        self.run("compact", self.name)
        self.folded = dict(self.live)

    # What is read.

    def read(self, step):
        """Everything, by every reader."""
        manifest = self.run("manifest", "show", self.name)
        entries, records = self.log()
        dead = self.segments(manifest)
        recipes = read_page(PAGE)
        per_segment = list(recipes["live_rows"](str(self.root)))
        compare(f"{step}: live_rows of the page", per_segment and merge(per_segment), self.folded)
        ids = recipes["live_ids"](str(self.root))
        if ids != set(self.live):
            sys.exit(f"error: {step}: live_ids of the page finds {len(ids)} rows, not {len(self.live)}")
        counted = self.run("sql", f"SELECT count(*) AS n FROM {self.name}")["rows"][0]["n"]
        print(
            f"{step:46} {entries:2} entries, {records:5} records | {len(manifest['segments'])} segments, {dead:4} dead "
            f"| {len(ids):5} live, SQL says {counted}"
        )
        if counted != len(self.live):
            sys.exit(f"error: {step}: SQL counts {counted} rows, not {len(self.live)}")

    def log(self):
        """fastavro replays every object of the log."""
        state, records = {}, 0
        paths = sorted((self.root / "wal").iterdir(), reverse=True)
        bodies = set()
        for number, path in enumerate(paths, 1):
            with path.open("rb") as file:
                blocks = fastavro.block_reader(file)
                metadata = blocks.metadata
                assert int(metadata["esker.seq"]) == number == 2**64 - 1 - int(path.stem), path
                inline = list(blocks)
            entry = [list(block) for block in inline]
            if "esker.body" in metadata:
                assert not entry, f"{path} has rows beside its body"
                named = json.loads(metadata["esker.body"])
                body = self.root / "body" / f"{2**64 - 1 - named['until']:020}-{named['token']}.avro"
                bodies.add(body)
                with body.open("rb") as file:
                    entry = [list(block) for block in fastavro.block_reader(file)]
            records += self.replay(path, json.loads(metadata["esker.batches"]), entry, state)
        folder = self.root / "body"
        assert bodies == (set(folder.iterdir()) if folder.exists() else set()), "a body that no entry names"
        self.bodies, self.inline = len(bodies), len(paths) - len(bodies)
        compare("fastavro", state, self.live)
        return len(paths), records

    def replay(self, path, batches, blocks, state):
        taken = 0
        for batch in batches:
            own = [record for block in blocks[taken : taken + batch["blocks"]] for record in block]
            taken += batch["blocks"]
            assert len(own) == batch["rows"], f"{path} has {len(own)} records in a batch of {batch['rows']}"
            for record in own:
                if batch["op"] == "delete":
                    assert record["vector"] == []
                    state.pop(record["id"], None)
                else:
                    state[record["id"]] = {"id": record["id"], "vector": record["vector"], **record["metadata"]}
        assert taken == len(blocks), f"{path} has blocks of no batch"
        return sum(b["rows"] for b in batches)

    def segments(self, manifest):
        """pyarrow and DuckDB read each segment; the rows that no bitmap marks are those of the last compaction."""
        seen, dead_rows = {}, 0
        for segment in manifest["segments"]:
            path = self.root / "segment" / f"{made_name(segment['made'])}.parquet"
            table = pq.read_table(path)
            vector = table.schema.field("vector").type
            assert vector.list_size == self.dimension and vector.value_type == self.type, vector
            assert len(table) == segment["rows"], path
            deletes = segment["deletes"]
            dead = read_bitmap(self.root / "deletes" / made_name(deletes["made"])) if deletes else set()
            assert len(dead) == (deletes["count"] if deletes else 0), path
            dead_rows += len(dead)
            seen.update(rows_of(table.take([i for i in range(len(table)) if i not in dead])))
            self.duck(path, table, dead)
        compare("pyarrow", seen, self.folded)
        self.most_dead = max(self.most_dead, dead_rows)
        return dead_rows

    def duck(self, path, table, dead):
        """DuckDB sees the same rows in the same order, and vectors as lists of floats."""
        with duckdb.connect() as db:
            db.execute("CREATE TABLE dead (row BIGINT)")
            db.executemany("INSERT INTO dead VALUES (?)", [[row] for row in dead] or [[-1]])
            source = f"read_parquet('{path}', file_row_number = true)"
            kind = db.execute(f"SELECT DISTINCT typeof(vector) FROM {source}").fetchall()
            assert kind == [("FLOAT[]",)], kind
            rows = db.execute(f"SELECT id, vector FROM {source} ORDER BY file_row_number").fetchall()
            assert [r[0] for r in rows] == table["id"].to_pylist(), path
            assert [r[1] for r in rows] == table["vector"].to_pylist(), path
            live = db.execute(f"SELECT count(*) FROM {source} WHERE file_row_number NOT IN (FROM dead)").fetchall()
            assert live == [(len(table) - len(dead),)], live


def made_name(made):
    return "{base:020}-{token}".format(**made)


def read_bitmap(path):
    """The set bits of a deletion bitmap, without the recipe's help."""
    from pyroaring import BitMap

    data = path.read_bytes()
    count, slices = struct.unpack_from("<QI", data, 64)
    bits = set()
    for i in range(slices):
        _, at, length, _ = struct.unpack_from("<IQII", data, 76 + 20 * i)
        bits.update(BitMap.deserialize(data[at : at + length]))
    assert len(bits) == count, path
    return bits


def rows_of(table):
    keep = [name for name in table.column_names if not name.startswith("_")]
    return {row["id"]: row for row in table.select(keep).to_pylist()}


def merge(tables):
    merged = {}
    for table in tables:
        rows = rows_of(table)
        assert not merged.keys() & rows.keys(), "a row is live twice"
        merged.update(rows)
    return merged


def plain(row):
    """A row with what readers may show differently made alike: an absent key is a null, a null list is empty."""
    return {key: value for key, value in row.items() if value is not None and value != []}


def compare(who, found, wanted):
    found = found or {}
    if found.keys() != wanted.keys():
        differing = sorted(found.keys() ^ wanted.keys())[:5]
        sys.exit(f"error: {who} finds {len(found)} rows, not {len(wanted)}; differing: {differing}")
    for id, row in wanted.items():
        if plain(found[id]) != plain(row):
            sys.exit(f"error: {who} reads {id} as {plain(found[id])}, not {plain(row)}")


def read_page(page):
    """Runs the marked code blocks of the page; each must be short."""
    space = {}
    blocks = re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    for name, code in blocks:
        lines = [line for line in code.splitlines() if line.strip()]
        if len(lines) > LINES:
            sys.exit(f"error: the recipe {name} of {page.name} has {len(lines)} lines, more than {LINES}")
        exec(compile(code, f"{page.name}: {name}", "exec"), space)
    return space


def check(esker, folder, name, vector_type, dimension, rows):
    c = Check(esker, folder, name, vector_type, dimension)
    ids = [f"{name}-{i:05}" for i in range(rows)]
    c.write(ids)
    c.read(f"{vector_type}: {rows} rows imported")
    c.compact()
    c.read("compacted")
    c.write(ids[100:300] + [f"{name}-new-{i}" for i in range(50)])
    c.delete(ids[50:150])
    c.read("200 overwritten, 50 new, 100 deleted")
    c.compact()
    c.read("compacted")
    c.write(ids[250:280] + ids[60:70])
    c.delete(ids[290:310] + [f"{name}-new-7", "never-there"])
    c.read("30 overwritten, 10 back, 21 deleted")
    c.compact()
    c.write(ids[:20])
    c.delete(ids[10:15])
    c.read("compacted, 20 overwritten, 5 deleted")
    return c


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    esker = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        single = check(esker, Path(scratch) / "a", "pages", "f32", 48, 6000)
        half = check(esker, Path(scratch) / "b", "halves", "f16", 20, 3000)
    bodies, inline = single.bodies + half.bodies, single.inline + half.inline
    assert bodies and inline, "the log had no body, or nothing else"
    assert single.most_dead and half.most_dead, "no deletion bitmap had a bit: nothing was tried"
    print(f"fastavro, pyarrow and DuckDB agree with what was written ({inline} inline entries, {bodies} with a body)")


if __name__ == "__main__":
    main()
