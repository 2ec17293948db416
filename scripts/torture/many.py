"""Several servers and a separate compactor on one store. Run it through many.sh or writers.sh.

On every server, clients upsert (plainly, `if_absent`, `if_version`), patch and delete ids that clients of the other servers
write, too; readers get, count and search. Every reply names a position, so the oracle is the list of what was acknowledged
in the order of positions: each reply of each server is compared with the state at its position, and each conditional
write with the state before it. Ids are shared across servers, not within one, whose requests may share a position.
"""

import argparse
import itertools
import json
import math
import random
import re
import sys
import time
import urllib.request

from common import DIMENSION, Client, Esker, History, Server, Threads, Wrong, vector

NAME = "many"
PATH = f"/collections/{NAME}/records"
# Ids that a writer of each server shares.
IDS = 25
K = 5
# Readers rest so that writers are what the machine is busy with.
REST = 0.02


class Writer:
    """One client of a server. `group` says whose ids it shares."""

    def __init__(self, server, number, group, history, numbers, seed):
        self.client, self.history, self.numbers = Client(server), history, numbers
        self.ids = [f"g{group}-{n}" for n in range(IDS)]
        self.pick = random.Random(f"{seed} {number} {group}")
        self.refused = {"if_absent": 0, "if_version": 0, "patch": 0}
        self.latencies = []

    def step(self):
        kind = self.pick.choices(["upsert", "delete", "if_absent", "if_version", "patch"], [10, 3, 2, 3, 2])[0]
        number, began = next(self.numbers), time.monotonic()
        getattr(self, kind)(number, f"write-{number}")
        self.latencies.append(time.monotonic() - began)

    def row(self, id, number):
        return {"id": id, "vector": vector(number), "metadata": {"seed": number, "note": 0}, "version": number}

    def upsert(self, number, key):
        ids = self.pick.sample(self.ids, self.pick.randrange(1, 8))
        done = self.client.call("POST", PATH, {"records": [self.row(id, number) for id in ids]}, key)
        self.history.acknowledged(done["position"], {id: (number, number, 0) for id in ids})

    def delete(self, number, key):
        ids = self.pick.sample(self.ids, self.pick.randrange(1, 4))
        done = self.client.call("DELETE", PATH, {"ids": ids}, key)
        self.history.acknowledged(done["position"], dict.fromkeys(ids))

    def if_absent(self, number, key):
        id = self.pick.choice(self.ids)
        body = {"records": [self.row(id, number)], "if_absent": True}
        self.decided("if_absent", self.client.call("POST", PATH, body, key, allowed=(409,)), number, id, None)

    def if_version(self, number, key):
        """As people do it: read, then write if nobody wrote meanwhile."""
        id = self.pick.choice(self.ids)
        found = self.client.call("POST", f"{PATH}/get", {"ids": [id]})["records"]
        if found:
            version = found[0]["version"]
            body = {"records": [self.row(id, number)], "if_version": version}
            self.decided("if_version", self.client.call("POST", PATH, body, key, allowed=(409,)), number, id, version)

    def decided(self, kind, done, number, id, version):
        if done is None:
            self.refused[kind] += 1
            return
        before = lambda row: (row and row[0]) == version
        self.history.acknowledged(done["position"], {id: (number, number, 0)}, (kind, id, before))

    def patch(self, number, key):
        id = self.pick.choice(self.ids)
        body = {"records": [{"id": id, "metadata": {"note": number}, "version": number}]}
        done = self.client.call("PATCH", PATH, body, key, allowed=(404, 409))
        if done is None:
            self.refused["patch"] += 1
            return
        change = lambda row: (number, row[1], number)
        self.history.acknowledged(done["position"], {id: change}, ("patch", id, lambda row: row is not None))


class Reader:
    """One client that reads; what it read is judged at the end, but for its age, which is judged at once."""

    def __init__(self, server, history, groups, seed):
        self.client, self.history, self.pick = Client(server), history, random.Random(seed)
        self.ids = [f"g{g}-{n}" for g in range(groups) for n in range(IDS)]
        self.position, self.reads = 0, []

    def step(self):
        known = self.history.last
        kind = self.pick.choice(["get", "count", "search"])
        if kind == "get":
            asked = self.pick.sample(self.ids, 10)
            reply = self.client.call("POST", f"{PATH}/get", {"ids": asked})
            said = {r["id"]: (r["version"], r["metadata"]["seed"], r["metadata"]["note"]) for r in reply["records"]}
        elif kind == "count":
            asked, reply = None, self.client.call("POST", f"{PATH}/count", {})
            said = reply["count"]
        else:
            asked = vector(self.pick.randrange(1, 10**6))
            body = {"vector": asked, "k": K, "min_recall": 1.0, "include": []}
            reply = self.client.call("POST", f"/collections/{NAME}/search", body)
            said = [(h["distance"], h["id"]) for h in reply["hits"]]
        if reply["position"] < max(known, self.position):
            raise Wrong(f"{kind} is as of {reply['position']}, after {known} was acknowledged and {self.position} seen")
        self.position = reply["position"]
        self.reads.append((self.position, kind, asked, said))
        time.sleep(REST)


class Oracle:
    """The state at each position, from what was acknowledged."""

    def __init__(self, writes, reads):
        self.writes, self.reads = sorted(writes, key=lambda w: w[0]), sorted(reads, key=lambda r: r[0])
        self.state, self.judged = {}, {"get": 0, "count": 0, "search": 0}
        self.conditions = {"if_absent": 0, "if_version": 0, "patch": 0}
        # Rows of which one is an id's: requests of several processes in one entry, whose order no answer tells, until a get does.
        self.open, self.undecided = {}, 0

    def judge(self):
        reads = iter(self.reads)
        read = next(reads, None)
        for position, group in itertools.groupby(self.writes, key=lambda w: w[0]):
            while read and read[0] < position:
                self.answer(*read)
                read = next(reads, None)
            self.apply(position, list(group))
        while read:
            self.answer(*read)
            read = next(reads, None)
        return self.state

    def apply(self, position, group):
        touched = [id for _, effects, _ in group for id in effects]
        if len(set(touched)) != len(touched) and any(condition for _, _, condition in group):
            raise Wrong(f"a condition and another request that touches the same id were both acknowledged at {position}")
        shared = {id: [] for id in touched if touched.count(id) > 1}
        for _, effects, condition in group:
            if condition:
                kind, id, holds = condition
                if rows := [row for row in self.open.get(id, []) if holds(row)]:
                    self.open[id], self.state[id] = rows, rows[0]
                    if rows[0] is None:
                        del self.state[id]
                if not holds(self.state.get(id)):
                    raise Wrong(f"{kind} of `{id}` was done at {position}, where it was {self.state.get(id)}")
                self.conditions[kind] += 1
            for id, row in effects.items():
                if id in self.open:
                    self.open[id] = [row(before) for before in self.open[id]] if callable(row) else [row]
                row = row(self.state.get(id)) if callable(row) else row
                if id in shared:
                    shared[id].append(row)
                if row is None:
                    self.state.pop(id, None)
                else:
                    self.state[id] = row
        self.open = {id: rows for id, rows in self.open.items() if len(rows) > 1} | shared

    def settle(self, rows, ids):
        """Takes what is read of ids that are open, if it is one of what it may be."""
        for id in [id for id in self.open if id in ids]:
            row = rows.get(id)
            if row in self.open[id]:
                del self.open[id]
                self.state.pop(id, None)
                if row is not None:
                    self.state[id] = row

    def answer(self, position, kind, asked, said):
        if kind == "get":
            self.settle(said, asked)
        elif self.open:
            self.undecided += 1
            return
        if kind == "get":
            wanted = {id: self.state[id] for id in asked if id in self.state}
        elif kind == "count":
            wanted = len(self.state)
        else:
            true = {id: math.dist(vector(row[1]), asked) for id, row in self.state.items()}
            wanted = sorted(true.values())[:K]
            # Which of equally near ones is named does not matter, but each is where it says.
            near = lambda a, b: math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5)
            fits = len(said) == len(wanted) and all(near(d, w) for (d, _), w in zip(said, wanted))
            if fits and all(near(true.get(id, -1), d) for d, id in said) and len({id for _, id in said}) == len(said):
                wanted = said
        if said != wanted:
            raise Wrong(f"{kind} {asked} at {position}: {said} instead of {wanted}")
        self.judged[kind] += 1


def scanned(server):
    """Every row that this server shows, by pages."""
    client, rows, cursor = Client(server), {}, None
    while True:
        page = client.call("POST", f"{PATH}/scan", {"limit": 100, "cursor": cursor})
        for r in page["records"]:
            if r["id"] in rows:
                raise Wrong(f"{server.name} scans `{r['id']}` twice")
            rows[r["id"]] = (r["version"], r["metadata"]["seed"], r["metadata"]["note"])
        cursor = page["cursor"]
        if cursor is None:
            return rows


def puts(server):
    """What the clients of a server made it put."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics").read().decode()
    found = re.findall(r'^esker_store_requests_total\{([^}]*)\} (\d+)', text, re.MULTILINE)
    return sum(int(n) for labels, n in found if re.search(r'method="put', labels, re.I) and 'by="requests"' in labels)


def percentile(values, share):
    return sorted(values)[int(len(values) * share)] * 1000 if values else 0


def report(args, seconds, history, writers, oracle, servers, version):
    positions = len({w[0] for w in history.writes})
    counts = {}
    for writer in writers:
        for kind, n in writer.client.counts.items():
            counts[kind] = counts.get(kind, 0) + n
    latencies = [x for w in writers for x in w.latencies]
    refused = {kind: sum(w.refused[kind] for w in writers) for kind in writers[0].refused}
    conditional = ", ".join(f"{kind} {n} done {refused[kind]} refused" for kind, n in oracle.conditions.items())
    p50, p99, longest = percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies) * 1000
    rates = f"{positions / seconds:.1f} commits/s, {len(history.writes) / seconds:.1f} writes/s acknowledged"
    print(f"{args.servers} servers, {len(writers)} writers, {seconds:.0f} s, a compactor beside them: version {version}")
    print(f"{positions} commits, {rates}")
    print(f"write p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {longest:.0f} ms")
    each = sorted(len(w.latencies) for w in writers)
    print(f"a writer finished {each[0]} to {each[-1]} writes, the median {each[len(each) // 2]}")
    print(f"puts a commit {sum(map(puts, servers)) / positions:.2f}; answers other than 200: {json.dumps(counts)}")
    print(f"conditions judged: {conditional}")
    print(f"reads judged: {json.dumps(oracle.judged)}; {oracle.undecided} while an order in an entry was not known")
    if not all(oracle.judged.values()) or not all(oracle.conditions.values()):
        raise Wrong("some kind of read or condition was never judged: run longer")


def torture(args):
    esker = Esker(args.store)
    esker.run("doctor")
    compactor = Server(esker, "--retain", "10s", name="compactor").ready()
    small = ["--no-compaction", "--memory", "256MiB", "--max-body", "16MiB"]
    servers = [Server(esker, *small, name=f"serve-{n}") for n in range(args.servers)]
    try:
        for server in servers:
            server.ready()
        make = {"name": NAME, "dimension": DIMENSION, "metric": "l2", "metadata": {"seed": "int", "note": "int"}}
        Client(servers[0]).call("POST", "/collections", make)
        history, numbers, threads = History("acknowledged"), itertools.count(1), Threads()
        # With one writer a server, four servers share the ids of a group.
        group = lambda s, w: w if args.writers > 1 else s // 4
        groups = max(group(s, w) for s in range(args.servers) for w in range(args.writers)) + 1
        writers = [
            Writer(server, s, group(s, w), history, numbers, args.seed)
            for s, server in enumerate(servers)
            for w in range(args.writers)
        ]
        read_at = servers[: args.read_at or len(servers)]
        readers = [Reader(s, history, groups, f"{args.seed} {i}") for i, s in enumerate(read_at * args.readers)]
        began = time.monotonic()
        for client in writers + readers:
            threads.start(client.step)
        threads.over.wait(args.minutes * 60)
        threads.join()
        seconds = time.monotonic() - began
        oracle = Oracle(history.writes, [r for reader in readers for r in reader.reads])
        wanted = oracle.judge()
        oracle.settle(scanned(servers[0]), set(oracle.open))
        for server in [*servers, compactor]:
            if (found := scanned(server)) != wanted:
                differing = [id for id in found.keys() | wanted.keys() if found.get(id) != wanted.get(id)]
                raise Wrong(f"{server.name} shows {len(found)} rows, not {len(wanted)}; differing: {differing[:5]}")
        said, batches = esker.verify(NAME), esker.tokens(NAME)
        if batches not in (None, len(history.writes)):
            raise Wrong(f"the log has {batches} batches, acknowledged were {len(history.writes)}")
        report(args, seconds, history, writers, oracle, servers, said["version"])
        print(f"{len(wanted)} rows, the same on all {len(servers) + 1}; {batches or 'not all'} batches named once; verify clean")
        for server in [*servers, compactor]:
            server.stop()
    finally:
        for server in [*servers, compactor]:
            server.process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--writers", type=int, default=4, help="a server")
    parser.add_argument("--readers", type=int, default=2, help="a server")
    parser.add_argument("--read-at", type=int, help="only this many servers are read")
    parser.add_argument("--seed", type=int, default=1)
    try:
        torture(parser.parse_args())
    except Wrong as e:
        sys.exit(f"WRONG: {e}")


if __name__ == "__main__":
    main()
