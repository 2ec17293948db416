"""pyarrow: reads the segments' rows of `pages`."""

import pyarrow
import pyarrow.parquet as pq

from common import FILES, done, expected, same

rows = {}
for path in (FILES / "segment").glob("*.parquet"):
    rows.update({r["id"]: r for r in pq.read_table(path).to_pylist()})
wanted = expected()
same(rows.keys(), wanted.keys(), "ids of the segments")
for id, r in rows.items():
    same(r["vector"], wanted[id]["vector"], f"the vector of {id}")
    for key, value in wanted[id]["metadata"].items():
        same(r[key], value, f"{key} of {id}")
done(pyarrow.__version__, f"read {len(rows)} rows of rows.parquet")
