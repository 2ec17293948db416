"""fastavro: replays the log of `pages`, entry by entry; what is left is what the collection holds."""

import json

import fastavro

from common import FILES, done, expected, same

state, entries, records = {}, 0, 0
# Names count down, so the newest comes first.
for path in sorted((FILES / "wal").iterdir(), reverse=True):
    with path.open("rb") as file:
        reader = fastavro.reader(file)
        header = reader.metadata
        batches = json.loads(header["esker.batches"])
    source = path
    if "esker.body" in header:
        token = json.loads(header["esker.body"])["token"]
        (source,) = (FILES / "body").glob(f"*{token}*")
    with source.open("rb") as file:
        blocks = [list(block) for block in fastavro.block_reader(file)]
    for batch in batches:
        own, blocks = blocks[: batch["blocks"]], blocks[batch["blocks"] :]
        for record in (r for block in own for r in block):
            records += 1
            if batch["op"] == "delete":
                state.pop(record["id"], None)
            else:
                state[record["id"]] = record
    entries += 1
wanted = expected()
same(state.keys(), wanted.keys(), "ids after the log")
for id, record in state.items():
    same(record["vector"], wanted[id]["vector"], f"the vector of {id}")
    same(record["metadata"]["topic"], wanted[id]["metadata"]["topic"], f"the topic of {id}")
done(fastavro.__version__, f"replayed {entries} entries, {records} records of the log")
