"""kill -9 at random moments. Run it through kill.sh.

Four scenarios, each on collections of its own: an import, `esker compact`, `esker gc --run` and a server that does all of
it by itself are killed --rounds times each, and in all of them the server through which clients write. Then the same
command runs again. At the end the acknowledged rows must be there, none twice, and `esker verify` must find nothing.
Clients send a write again under the same key until it is acknowledged.
"""

import argparse
import itertools
import json
import random
import sys
import threading
import time

from common import WORK, Client, Esker, History, Server, Threads, Wrong, vector

IMPORTED = 40_000
# Clients a collection; two of them share ids.
CLIENTS = 4
IDS = 100
# What `esker gc` waits between committing floors and deleting.
GRACE = 60


class Writing:
    """Clients that write to one collection, and what was acknowledged."""

    def __init__(self, server, name, seed, clients=CLIENTS, pause=0.1):
        self.name, self.path, self.pause = name, f"/collections/{name}/records", pause
        self.history, self.threads = History(f"{name}.acknowledged"), Threads()
        self.clients = [Client(server) for _ in range(clients)]
        self.numbers = itertools.count(1)
        make = {"name": name, "dimension": len(vector(0)), "metric": "l2", "metadata": {"seed": "int"}}
        self.clients[0].call("POST", "/collections", make, allowed=(409,))
        for i, client in enumerate(self.clients):
            self.threads.start(self.write, client, i // 2, random.Random(f"{seed} {name} {i}"))

    def write(self, client, group, pick):
        ids = pick.sample([f"h{group}-{n}" for n in range(IDS)], pick.randrange(1, 30))
        number = next(self.numbers)
        if pick.random() < 0.2:
            ids = ids[:5]
            done = client.call("DELETE", self.path, {"ids": ids}, key=f"{self.name}-{number}")
            self.history.acknowledged(done["position"], dict.fromkeys(ids))
        else:
            rows = [{"id": id, "vector": vector(number), "metadata": {"seed": number}, "version": number} for id in ids]
            done = client.call("POST", self.path, {"records": rows}, key=f"{self.name}-{number}")
            self.history.acknowledged(done["position"], dict.fromkeys(ids, number))
        time.sleep(self.pause)

    def judge(self, esker, imported=None):
        """Every acknowledged row is there, once, and nothing else. Returns how many rows."""
        found, wanted = esker.rows(self.name), self.history.final()
        for id, seed in (imported or {}).items():
            wanted[id] = [seed]
        if extra := found.keys() - wanted.keys():
            raise Wrong(f"{self.name}: rows that nobody wrote: {sorted(extra)[:5]}")
        for id, seeds in wanted.items():
            row = found.get(id)
            if (row and row["seed"]) not in seeds:
                raise Wrong(f"{self.name}: `{id}` is {row}, but the last acknowledged write of it is one of {seeds}")
            if row and row["vector"] != vector(row["seed"]):
                raise Wrong(f"{self.name}: `{id}` has another vector than it was written with")
        return len(found)

    def broken(self):
        return sum(c.counts.get("broken off", 0) for c in self.clients)


class Rounds:
    """Processes killed at random moments, and how many kills met a process at work."""

    def __init__(self, esker, server, pick, wanted):
        self.esker, self.server, self.pick = esker, server, pick
        self.wanted, self.met = wanted, 0

    def __iter__(self):
        """Numbers, from 1, until as many kills as wanted met a process; some come too late."""
        for number in range(1, 3 * self.wanted + 1):
            if self.met == self.wanted:
                return
            yield number
        if self.met < self.wanted:
            raise Wrong(f"only {self.met} of {3 * self.wanted} kills met a process")

    def strike(self, process, after):
        """Kills it `after` seconds from now, unless it is done by then."""
        time.sleep(after)
        if process.poll() is None:
            process.kill()
            self.met += 1
        # 0: it was done before. Anything else is no kill of ours.
        elif process.returncode:
            raise Wrong(f"a command failed with {process.returncode} before it was killed")
        process.wait()

    def strike_server(self, after):
        time.sleep(after)
        self.server.kill()
        time.sleep(self.pick.uniform(0, 0.3))
        self.server.start()

    def both(self, process, longest):
        """Kills the command, and the server at another moment; the server starts again."""
        beside = threading.Thread(target=self.strike_server, args=(self.pick.uniform(0, longest),))
        beside.start()
        try:
            self.strike(process, self.pick.uniform(0, longest))
        finally:
            beside.join()
        self.server.ready()


def rows_of(round_number):
    """What a file of this round holds: half of its ids were in the file before, and after four rounds all come again."""
    start = round_number % 4 * IMPORTED // 2
    return {f"i-{n}": round_number * 10_000_000 + n for n in range(start, start + IMPORTED)}


def file_of(rows, name):
    path = WORK / f"{name}.ndjson"
    with path.open("w") as out:
        for id, seed in rows.items():
            out.write(f'{{"id":"{id}","vector":{json.dumps(vector(seed))},"seed":{seed}}}\n')
    return path


def timed(esker, *arguments):
    began = time.monotonic()
    said = esker.run(*arguments)
    return said, time.monotonic() - began


def imports(esker, server, pick, args):
    """`esker import`, killed and run again; what its file holds counts as acknowledged when the second run says so."""
    writing = Writing(server, "imports", args.seed)
    rounds, imported, skipped = Rounds(esker, server, pick, args.rounds), rows_of(0), 0
    said, longest = timed(esker, "import", file_of(imported, "import"), "--into", "imports")
    batches = said["batches"]
    for number in rounds:
        rows = rows_of(number)
        command = ["import", file_of(rows, "import"), "--into", "imports"]
        rounds.both(esker.start(*command, name="import"), longest)
        said, took = timed(esker, *command)
        if said["rows"] != len(rows):
            raise Wrong(f"the import of {len(rows)} rows says {said}")
        # Rows of earlier files that this one does not hold stay. An import that found nothing of its own took longest.
        longest = took if not said["skipped"] else longest
        skipped, batches = skipped + said["skipped"], batches + said["batches"]
        imported.update(rows)
        writing.threads.check()
        if number % 5 == 0:
            esker.run("compact", "imports")
    writing.threads.join()
    return finish(esker, [writing], rounds, f"{skipped:,} rows were there before the second run", imported, batches)


def compactions(esker, server, pick, args):
    """`esker compact`, killed and run again, while the log grows."""
    writing = Writing(server, "compactions", args.seed)
    rounds, imported, longest, folded, batches = Rounds(esker, server, pick, args.rounds), {}, None, 0, 0
    for number in rounds:
        rows = rows_of(number)
        batches += esker.run("import", file_of(rows, "import"), "--into", "compactions")["batches"]
        imported.update(rows)
        if longest:
            rounds.both(esker.start("compact", "compactions", name="compact"), longest)
        said, took = timed(esker, "compact", "compactions")
        if said["folded_rows"] >= IMPORTED:
            # The first run had not committed: this is what a whole one takes.
            longest = took
            folded += 1
        writing.threads.check()
        esker.verify("compactions")
    writing.threads.join()
    return finish(esker, [writing], rounds, f"{folded - 1} kills before the commit", imported, batches)


def collections(esker, server, pick, args):
    """`esker gc --run` of a collection each, all at once for the sake of the minute they wait."""
    # Some more than wanted: a kill may come too late.
    names = [f"gc-{n}" for n in range(args.rounds + args.rounds // 5)]
    writings = [Writing(server, name, args.seed, clients=2, pause=0.2) for name in names]
    for _ in range(3):
        time.sleep(5)
        for name in names:
            esker.run("compact", name)
    rounds, strikes = Rounds(esker, server, pick, args.rounds), Threads()

    def strike(number, name, moment):
        if strikes.over.wait(moment * 0.2):
            return
        before, began = len(esker.keys(f"c/{name}-1/wal")), time.monotonic()
        process = esker.start("gc", name, "--run", "--retain", "0s", name="gc")
        if number % 3 == 0:
            # Around the commit of the floors.
            rounds.strike(process, moment * 0.5)
        elif number % 3 == 1:
            rounds.strike(process, moment * GRACE)
        else:
            # In the middle of deleting: once the log has fewer objects than it had.
            time.sleep(GRACE - 5)
            while process.poll() is None and len(esker.keys(f"c/{name}-1/wal")) >= before:
                before = max(before, len(esker.keys(f"c/{name}-1/wal")))
                time.sleep(0.002)
            rounds.strike(process, moment * 0.02)
        if time.monotonic() - began > 3 * GRACE:
            raise Wrong(f"the collection of {name} took {time.monotonic() - began:.0f} s")

    moments = [pick.random() for _ in names]
    for number, name in enumerate(names):
        thread = threading.Thread(target=guard(strikes, strike), args=(number, name, moments[number]))
        strikes.threads.append(thread)
        thread.start()
    for _ in range(5):
        rounds.strike_server(pick.uniform(1, GRACE / 6))
        server.ready()
    for thread in list(strikes.threads):
        thread.join()
    strikes.check()
    if rounds.met < args.rounds:
        raise Wrong(f"only {rounds.met} kills met a collection at work")
    for writing in writings:
        writing.threads.join()
    # The next collection, and one more for what the writers left.
    for name in names:
        esker.run("compact", name)
    together([esker.start("gc", name, "--run", "--retain", "0s", name="gc") for name in names])
    return finish(esker, writings, rounds, "one collection later: {garbage} garbage, {orphan} orphans")


def guard(threads, work):
    def guarded(*arguments):
        try:
            work(*arguments)
        except BaseException as e:
            threads.failures.append(e)

    return guarded


def together(processes):
    for process in processes:
        if code := process.wait(300):
            raise Wrong(f"a collection of garbage exits with {code}")


def servers(esker, server, pick, args):
    """A server that compacts and collects by itself."""
    server.kill()
    server.flags = ["--retain", "0s"]
    server.start()
    server.ready()
    writing = Writing(server, "servers", args.seed, clients=8)
    rounds = Rounds(esker, server, pick, args.rounds)
    for _ in rounds:
        rounds.strike(server.process, pick.uniform(0.2, 4))
        server.kills += 1
        server.start()
        server.ready()
        writing.threads.check()
        esker.verify("servers")
    writing.threads.join()
    version = esker.run("manifest", "show", "servers")["version"]
    return finish(esker, [writing], rounds, f"its own compactions brought it to version {version}")


def finish(esker, writings, rounds, note, imported=None, files=0):
    """What a scenario leaves is judged; the figures of its line. `files` had this many batches."""
    rows = batches = acknowledged = broken = 0
    counted = True
    classes = {"garbage": 0, "orphan": 0}
    for writing in writings:
        rows += writing.judge(esker, imported)
        named = esker.tokens(writing.name)
        counted, batches = counted and named is not None, batches + (named or 0)
        said = esker.verify(writing.name)
        for kind in classes:
            classes[kind] += said["objects_by_class"].get(kind, 0)
        acknowledged += len(writing.history.writes)
        broken += writing.broken()
    # The register keeps the tokens of a day, while they are not too many: each acknowledged write is in the log once, and nothing else is.
    if counted and batches != acknowledged + files:
        raise Wrong(f"the log has {batches} batches, acknowledged were {acknowledged} and {files} of files")
    return {
        "kills": rounds.met,
        "server": rounds.server.kills,
        "writes": acknowledged,
        "again": broken,
        "rows": rows,
        "batches": batches,
        "note": note.format(**classes),
    }


SCENARIOS = {"import": imports, "compact": compactions, "gc": collections, "serve": servers}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="of import, compact, gc, serve")
    args = parser.parse_args()
    head = ("killed", "at work", "server", "writes", "re-sent", "rows", "batches", "seconds")
    print("{:8} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8}  verify".format(*head))
    wrong = False
    for name in args.only.split(","):
        esker = Esker(f"{args.store}/{name}")
        esker.run("doctor")
        server = Server(esker, "--no-compaction", name=f"serve-{name}").ready()
        began = time.monotonic()
        try:
            d = SCENARIOS[name](esker, server, random.Random(f"{args.seed} {name}"), args)
            figures = [d[k] for k in ("kills", "server", "writes", "again", "rows", "batches")]
            line = "{:8} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8.0f}  clean; {}"
            print(line.format(name, *figures, time.monotonic() - began, d["note"]))
            server.stop()
        except Wrong as e:
            wrong = True
            print(f"{name:8} WRONG: {e}")
        finally:
            server.process.kill()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
