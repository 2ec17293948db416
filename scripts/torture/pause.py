"""A server stopped in the middle of a write until its slot was collected. Run it through pause.sh.

The server reaches the store through a gate, which holds the put that would claim the slot while the process is stopped
(SIGSTOP). Meanwhile another server writes into that slot and beyond, the log is folded and collected. Then the gate lets the
put through, where it creates an object under a name that had been deleted, and the process continues (SIGCONT).
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

from common import DIMENSION, Client, Esker, Server, Wrong, free_port, vector

NAME = "paused"
PATH = f"/collections/{NAME}/records"


class Gate:
    """Passes bytes on to the store; once armed, holds the next put into a log and then whatever comes."""

    def __init__(self, upstream):
        self.upstream, self.port = upstream, free_port()
        self.armed, self.held, self.open = threading.Event(), threading.Event(), threading.Event()
        self.open.set()
        listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            threading.Thread(target=self.pass_on, args=(listener.accept()[0],), daemon=True).start()

    def pass_on(self, client):
        store = socket.create_connection(self.upstream)
        while True:
            for ready in select.select([client, store], [], [])[0]:
                data = ready.recv(1 << 16)
                if not data:
                    client.close()
                    store.close()
                    return
                if ready is store:
                    client.sendall(data)
                    continue
                if self.armed.is_set() and data.startswith(b"PUT ") and b"/wal/" in data.split(b"\r\n", 1)[0]:
                    self.armed.clear()
                    self.open.clear()
                    self.held.set()
                    self.open.wait()
                    # The store may have given up on a connection that was silent for so long.
                    store.close()
                    store = socket.create_connection(self.upstream)
                store.sendall(data)


def row(id, number):
    return {"id": id, "vector": vector(number), "metadata": {"seed": number}, "version": number}


def write(client, id, number):
    return client.call("POST", PATH, {"records": [row(id, number)]})["position"]


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}")


def entry(position):
    return f"{2**64 - 1 - position:020}.avro"


def collect(esker):
    esker.run("compact", NAME)
    esker.run("gc", NAME, "--run", "--retain", "0s")


def hold(gate, server):
    """Sends a write whose put is held, and stops its process. Returns the thread, and where its answer will be."""
    answer = []
    client = Client(server)
    send = lambda: answer.append(client.once("POST", f"/v1{PATH}", {"records": [row("held", 999)]}, key="held", timeout=300))
    gate.armed.set()
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    if not gate.held.wait(30):
        raise Wrong("the write did not reach the store")
    server.process.send_signal(signal.SIGSTOP)
    return thread, answer


def torture(store):
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    gate = Gate((endpoint.hostname, endpoint.port))
    esker = Esker(store)
    esker.run("doctor")
    behind = Esker(store, AWS_ENDPOINT_URL=f"http://127.0.0.1:{gate.port}")
    paused, other = Server(behind, "--no-compaction", name="paused"), Server(esker, "--no-compaction", name="other")
    try:
        paused.ready(), other.ready()
        here, there = Client(paused), Client(other)
        make = {"name": NAME, "dimension": DIMENSION, "metric": "l2", "metadata": {"seed": "int"}}
        there.call("POST", "/collections", make)
        write(there, "a", 1)
        slot = write(here, "b", 2) + 1

        thread, answer = hold(gate, paused)
        say(f"a put into slot {slot} is held, its process is stopped")
        taken = [write(there, f"c{n}", 10 + n) for n in range(20)]
        if taken[0] != slot:
            raise Wrong(f"the other server wrote into slot {taken[0]}, not {slot}")
        collect(esker)
        if entry(slot) in esker.keys(f"c/{NAME}-1/wal"):
            raise Wrong(f"slot {slot} was not collected")
        before, position = esker.rows(NAME), there.call("POST", f"{PATH}/count", {})
        say(f"the other server wrote slots {taken[0]} to {taken[-1]}; they are folded and collected")

        gate.open.set()
        for _ in range(100):
            if entry(slot) in esker.keys(f"c/{NAME}-1/wal"):
                break
            time.sleep(0.1)
        else:
            raise Wrong("the held put did not create its object")
        say(f"the put has landed in slot {slot}, whose name was free again; the process continues")
        paused.process.send_signal(signal.SIGCONT)
        thread.join(120)
        if not answer:
            raise Wrong("the write was not answered within 120 s")
        status, reply, _ = answer[0]
        say(f"it is answered {status}: {reply['error']['kind']}: {reply['error']['message']}")
        if (status, reply["error"]["kind"]) != (503, "unknown") or not reply["error"].get("token"):
            raise Wrong(f"the write is answered {status}: {reply}")

        if esker.rows(NAME) != before:
            raise Wrong("the rows changed")
        for client in (here, there):
            count = client.call("POST", f"{PATH}/count", {})
            if (count["count"], count["position"]) != (position["count"], position["position"]):
                raise Wrong(f"a count was {position} and is {count}")
        esker.verify(NAME)
        say("no snapshot has it; verify finds nothing")

        again = here.call("POST", PATH, {"records": [row("held", 999)]}, key=reply["error"]["token"])
        once = here.call("POST", PATH, {"records": [row("held", 999)]}, key=reply["error"]["token"])
        if again["position"] <= taken[-1] or once != {**again, "duplicate": True}:
            raise Wrong(f"sent again it is answered {again}, then {once}")
        say(f"sent again under its token it is written once, at {again['position']}")
        collect(esker)
        left = esker.keys(f"c/{NAME}-1/wal")
        if entry(slot) in left:
            raise Wrong("the stray was not swept")
        after = esker.rows(NAME)
        if after.pop("held")["seed"] != 999 or after != before:
            raise Wrong("the rows are not those before, and the one that was sent again")
        esker.verify(NAME)
        say("the next collection swept the stray; verify finds nothing")
        paused.stop(), other.stop()
    finally:
        for server in (paused, other):
            server.process.send_signal(signal.SIGCONT)
            server.process.kill()


if __name__ == "__main__":
    try:
        torture(sys.argv[1])
    except Wrong as e:
        sys.exit(f"WRONG: {e}")
