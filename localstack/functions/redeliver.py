"""Every event comes more than once, in other orders, in batches that fail in part, with connections cut: an oracle says what the
rows must be. An event does what it does when it first succeeds; whenever it comes again, nothing changes.

  redeliver.py ENDPOINT [SEED] [EVENTS]
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from drive import COLLECTION, DIMENSION, RECORDS, Drive, expect
from stage import NAMES, Stage, event

IDS = 40
# An event that was not answered may have happened: it comes again at once, so that the oracle knows when.
TRIES = 8


class Play:
    def __init__(self, drive: Drive, seed: int):
        self.drive, self.random = drive, random.Random(seed)
        self.rows: dict[str, dict] = {}
        self.done: set[str] = set()
        self.made = 0
        self.notices: list[dict] = []
        self.counts = dict.fromkeys(("deliveries", "repeated", "refused", "unanswered", "woken"), 0)

    def make(self) -> dict:
        """An event: what it does, to which ids, and how it comes."""
        self.made += 1
        do = self.random.choice(["upsert"] * 4 + ["patch"] * 2 + ["delete"])
        ids = self.random.sample(range(IDS), self.random.randint(1, 4))
        way = self.random.choice(["v1", "v2", "queue", "queue", "direct" if do == "delete" else "upload" if do == "upsert" else "v2"])
        return {"name": f"event-{self.made}", "do": do, "ids": [f"row-{i:02}" for i in ids], "way": way, "n": self.made}

    def body(self, e: dict) -> dict:
        if e["do"] == "delete":
            return {"ids": e["ids"]}
        if e["do"] == "patch":
            return {"records": [{"id": i, "metadata": {f"p{e['n'] % 5}": e["n"]}} for i in e["ids"]]}
        vector = [float(e["n"] % 97)] * DIMENSION
        return {"records": [{"id": i, "vector": vector, "metadata": {"n": e["n"]}} for i in e["ids"]]}

    def apply(self, e: dict) -> None:
        self.done.add(e["name"])
        for i in e["ids"]:
            match e["do"]:
                case "delete":
                    self.rows.pop(i, None)
                case "patch":
                    self.rows[i][f"p{e['n'] % 5}"] = e["n"]
                case _:
                    self.rows[i] = {"n": e["n"]}

    def possible(self, e: dict) -> bool:
        """A patch is of rows that are there, or of none."""
        return e["do"] != "patch" or all(i in self.rows for i in e["ids"])

    def settle(self, e: dict, took: bool) -> None:
        self.counts["deliveries"] += 1
        new = e["name"] not in self.done
        self.counts["repeated"] += took and not new
        self.counts["refused"] += not took
        expect(f"whether {e} was taken", took, not new or self.possible(e))
        if took and new:
            self.apply(e)

    # Ways in which an event comes.
    def once(self, e: dict) -> bool | None:
        """Whether it was taken; None if nobody knows."""
        drive, headers = self.drive, {"idempotency-key": e["name"]}
        if e["way"] == "queue":
            return not drive.sent("esker-ingest", self.batch([e]))
        if e["way"] == "direct":
            ask = {"esker": "delete", "collection": COLLECTION, "records": {"ids": e["ids"]}, "token": f"{e['n']:032x}"}
            ok, reply = drive.stage.invoke("esker-ingest", ask)
            return None if not ok or "error" in reply else True
        if e["way"] == "upload":
            return self.upload(e, headers)
        method = {"upsert": "POST", "patch": "PATCH", "delete": "DELETE"}[e["do"]]
        function = "esker-query" if e["do"] == "delete" else "esker-ingest"
        status, reply = getattr(drive, e["way"])(function, method, RECORDS, self.body(e), headers)
        if status in (429, 503):
            return None
        if status == 200 and e["name"] in self.done:
            expect(f"{e} says that it was there", reply.get("duplicate"), True)
        if status not in (200, 404):
            raise AssertionError(f"{e} was answered {status}: {reply}")
        return status == 200

    def upload(self, e: dict, headers: dict) -> bool | None:
        """Another upload of the same rows each time, under the event's own name."""
        where = f"/v1/collections/{COLLECTION}/uploads"
        status, place = self.drive.v2("esker-ingest", "POST", where)
        if status != 201:
            return None
        if self.drive.stage.post(place["url"], json.dumps(self.body(e)).encode(), {}, "PUT")[0] != 200:
            return None
        status, reply = self.drive.v2("esker-ingest", "POST", f"{where}/{place['token']}/commit", {}, headers)
        return None if status != 200 or not reply["done"] else True

    def batch(self, events: list[dict]) -> dict:
        records = []
        for e in events:
            more = {"operation": e["do"]}
            message = self.drive.messages(self.body(e), collection=COLLECTION, **more)["Records"][0]
            message["messageId"] = e["name"]
            records.append(message)
        return {"Records": records}

    def deliver(self, e: dict) -> None:
        for _ in range(TRIES):
            took = self.once(e)
            if took is not None:
                return self.settle(e, took)
            self.counts["unanswered"] += 1
            time.sleep(0.2)
        raise AssertionError(f"{e} was not answered {TRIES} times")

    def together(self, events: list[dict]) -> None:
        """One batch of the queue, some of it twice, with messages that fail: the order within it is open, so no id is in two."""
        chosen, ids = [], set()
        for e in events:
            if e["way"] == "queue" and not ids & set(e["ids"]):
                chosen.append(e)
                ids |= set(e["ids"])
        twice = [e for e in chosen if self.random.random() < 0.3]
        e = self.batch(chosen + twice)
        poison = self.drive.messages({"records": [{"id": "x", "vector": [1.0]}]}, "no JSON", id="poison", collection=COLLECTION)
        e["Records"] += poison["Records"]
        self.random.shuffle(e["Records"])
        again = self.drive.sent("esker-ingest", e)
        expect("poison that comes again", [i for i in sorted(again) if i.startswith("poison")], ["poison-0", "poison-1"])
        for e in chosen:
            self.settle(e, e["name"] not in again)

    def wake(self) -> None:
        """Old notices as well as new ones, alone, together or in messages."""
        self.counts["woken"] += 1
        if marks := self.drive.keys("dirty/"):
            self.notices.append(self.drive.objects(marks))
        self.notices.append(self.drive.objects(self.drive.keys(f"c/{COLLECTION}-1/wal/")[:3]))
        some = self.random.choices(self.notices, k=2)
        match self.random.randrange(4):
            case 0:
                self.drive.compactor(event("schedule"))
            case 1:
                self.drive.compactor({"collection": COLLECTION})
            case 2:
                self.drive.compactor(some[0])
                self.drive.compactor(some[0])
            case _:
                self.drive.sent("esker-compactor", self.drive.messages(*some, id="notice"))

    def check(self) -> None:
        status, reply = self.drive.v2("esker-query", "POST", f"{RECORDS}/scan", {"limit": 1000})
        expect("status of a scan", status, 200)
        found = {r["id"]: r["metadata"] for r in reply["records"]}
        expect("the rows", found, self.rows)


def play(drive: Drive, seed: int, events: int) -> None:
    p = Play(drive, seed)
    choose, all_events = p.random, [p.make() for _ in range(events)]
    # Each one to four times, the second time soon or much later.
    coming = [(i + choose.choice([0, 3, 40, events]) * choose.random(), e) for i, e in enumerate(all_events)
              for _ in range(choose.randint(1, 4))]
    order = [e for _, e in sorted(coming, key=lambda c: c[0])]
    for at, e in enumerate(order):
        match choose.randrange(12):
            case 0:
                p.together(choose.sample(all_events, min(10, len(all_events))))
            case 1:
                p.wake()
            case 2:
                drive.stage.proxy.cut()
        p.deliver(e)
        if at % 25 == 0:
            p.check()
    p.check()
    # Whatever was taken comes once more, in any order.
    position, last = drive.position(), [e for e in all_events if e["name"] in p.done]
    choose.shuffle(last)
    for e in last:
        p.deliver(e)
    p.check()
    expect("the position after all events came again", drive.position(), position)
    print(f"ok: {events} events, {len(p.done)} took effect; {p.counts}; {len(p.rows)} rows, seed {seed}")


def main() -> None:
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    events = int(sys.argv[3]) if len(sys.argv) > 3 else 120
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(sys.argv[1], "esker-functions", Path(folder))
        stage.prefix = f"redelivery-{os.getpid()}"
        stage.environment["ESKER_STORE"] = f"s3://{stage.bucket}/{stage.prefix}"
        stage.s3("PUT", f"/{stage.bucket}")
        drive = Drive(stage)
        try:
            stage.start()
            drive.create()
            play(drive, seed, events)
        except BaseException:
            for name in NAMES:
                print(f"== {name} ==\n{stage.log(name)[-2000:]}", file=sys.stderr)
            raise
        finally:
            stage.stop()


main()
