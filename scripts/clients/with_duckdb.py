"""DuckDB: finds nearest rows in the segments of `pages` by brute force, as the server's search finds them."""

import duckdb
import requests

from common import FILES, HTTP, done, expected, row, same

files = str(FILES / "segment" / "*.parquet")
with duckdb.connect() as db:
    count = db.execute(f"SELECT count(*), count(DISTINCT id) FROM '{files}'").fetchone()
    same(count, (len(expected()),) * 2, "rows")
    for number in (20, 199, 333):
        vector = row(number)["vector"]
        query = f"SELECT id FROM '{files}' WHERE year >= 1950 ORDER BY list_distance(vector, ?::FLOAT[]), id LIMIT 5"
        found = [id for (id,) in db.execute(query, [vector]).fetchall()]
        ask = {"vector": vector, "k": 5, "min_recall": 1.0, "filter": "year >= 1950"}
        reply = requests.post(f"{HTTP}/v1/collections/pages/search", json=ask, timeout=30)
        assert reply.ok, reply.text
        same([h["id"] for h in reply.json()["hits"]], found, f"the nearest of {number}")
done(duckdb.__version__, "nearest rows of rows.parquet by SQL = the server's search")
