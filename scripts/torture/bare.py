"""Many writer processes on one collection, without servers: commits/s, writes/s, latency and requests of each write, and that
every acknowledged batch is in the log once, where its writer was told. Run it through writers.sh --bare."""

import argparse
import os
import subprocess
import sys
import time

from common import DIMENSION, Esker, Wrong

NAME = "bare"
# First writes of each process, which learn what later ones know.
COLD = 2


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def start(esker, args):
    """Every process, once it has opened the collection."""
    command = [os.environ["WRITER"], args.store, NAME, "--seconds", str(args.seconds)] + ["--direct"] * args.direct
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": esker.environment}
    processes = [subprocess.Popen([*command, "--number", str(n)], **pipe) for n in range(args.processes)]
    for process in processes:
        if process.stdout.readline().strip() != "ready":
            raise Wrong(f"a writer ends with {process.wait()} before it is ready")
    return processes


def finish(processes):
    """What each one printed, all of them released at once."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.close()
    lines = [[line.split() for line in process.stdout] for process in processes]
    for process in processes:
        if process.wait():
            raise Wrong(f"a writer ends with {process.returncode}")
    return lines


def judge(esker, writes):
    """Compares what was acknowledged with the log."""
    there = {}
    for entry in esker.run("wal", "show", NAME):
        for batch in entry["batches"]:
            if batch["token"] in there:
                raise Wrong(f"batch {batch['token']} is in {there[batch['token']]} and in {entry['seq']}")
            there[batch["token"]] = entry["seq"]
    for _, _, position, token in writes:
        if there.get(token) != int(position):
            raise Wrong(f"batch {token} was acknowledged at {position} and is in {there.get(token)}")
    if len(there) != len(writes):
        raise Wrong(f"{len(there)} batches are in the log, {len(writes)} were acknowledged")
    return len(set(there.values()))


def torture(args):
    esker = Esker(args.store)
    esker.run("collection", "create", NAME, "--dimension", DIMENSION, "--metric", "l2")
    processes = start(esker, args)
    began = time.monotonic()
    printed = finish(processes)
    seconds = time.monotonic() - began
    again = [line for lines in printed for line in lines if line[0] == "again"]
    writes = [[line for line in lines if line[0] != "again"] for lines in printed]
    everything = [write for own in writes for write in own]
    commits = judge(esker, everything)
    warm = [write for own in writes for write in own[COLD:]]
    times, requests = [float(w[0]) for w in warm], [int(w[1]) for w in warm]
    how = "each for itself" if args.direct else "combined through the inbox"
    print(f"{args.processes} processes, {how}, {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(f"{commits} commits, {commits / seconds:.1f}/s; {len(everything)} writes, {len(everything) / seconds:.1f}/s")
    print(f"write p50 {percentile(times, 0.5):.0f} ms, p99 {percentile(times, 0.99):.0f} ms, longest {max(times):.0f} ms")
    print(f"requests a write {sum(requests) / len(requests):.2f}; answers sent again {len(again)}")
    each = sorted(len(own) for own in writes)
    print(f"a writer finished {each[0]} to {each[-1]} writes; every acknowledged batch is in the log once")
    esker.verify(NAME)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--direct", action="store_true", help="each writer for itself")
    try:
        torture(parser.parse_args())
    except Wrong as e:
        sys.exit(f"WRONG: {e}")


if __name__ == "__main__":
    main()
