"""Drives the three functions with real events: create, write, compact, search, SQL, delete, and what may go wrong."""

import base64
import json
import os
import struct
import sys
import tempfile
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from stage import NAMES, Stage, event

COLLECTION = "docs"
RECORDS = f"/v1/collections/{COLLECTION}/records"
DIMENSION = 4


def expect(what: str, found, wanted) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} instead of {wanted!r}")


def jwt(**claims) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)] + [b"no signature of anybody" * 4]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


CLAIMS = {"sub": "expired-caller", "iss": "https://issuer.example", "exp": 1_600_000_000, "scope": "esker/admin"}
TOKEN = jwt(**CLAIMS)


def row(n: int, **more) -> dict:
    return {"id": f"row-{n:03}", "vector": [float(n), 1.0, 0.0, 0.0], "metadata": {"n": n, "even": n % 2 == 0}} | more


class Drive:
    def __init__(self, stage: Stage):
        self.stage = stage

    # A request by each of the ways that requests come.
    def v2(self, function: str, method: str, path: str, body=None, headers=None, binary=False) -> tuple[int, object]:
        e = event("v2")
        path, _, query = path.partition("?")
        e["rawPath"], e["rawQueryString"] = path, query
        e["requestContext"]["http"] |= {"method": method, "path": path}
        e["headers"] |= headers or {}
        self._body(e, body, binary)
        return self._answer(function, e)

    def v1(self, function: str, method: str, path: str, body=None, headers=None, binary=False) -> tuple[int, object]:
        e = event("v1")
        e |= {"path": path, "httpMethod": method, "pathParameters": {"proxy": path[1:]}}
        e["requestContext"] |= {"httpMethod": method, "path": "/prod" + path}
        for name, value in (headers or {}).items():
            e["headers"][name] = value
            e["multiValueHeaders"][name] = [value]
        self._body(e, body, binary)
        return self._answer(function, e)

    def url(self, function: str, method: str, path: str, body: bytes, headers: dict) -> tuple[int, bytes]:
        status, _, reply = self.stage.post(f"{self.stage.base}/lambda-url/{function}{path}", body, headers, method)
        return status, reply

    def _body(self, e: dict, body, binary: bool) -> None:
        if body is None:
            return
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        e["isBase64Encoded"] = binary
        e["body"] = base64.b64encode(raw).decode() if binary else raw.decode()

    def _answer(self, function: str, e: dict) -> tuple[int, object]:
        ok, reply = self.stage.invoke(function, e)
        if not ok or "statusCode" not in reply:
            raise AssertionError(f"{function} answered {reply}")
        body = reply.get("body") or ""
        raw = base64.b64decode(body) if reply.get("isBase64Encoded") else body.encode()
        try:
            return reply["statusCode"], json.loads(raw)
        except ValueError:
            return reply["statusCode"], raw

    def count(self, collection: str = COLLECTION) -> int:
        status, reply = self.v2("esker-query", "POST", "/v1/sql", {"query": f"SELECT count(*) AS n FROM {collection}"})
        expect("status of SQL", status, 200)
        return reply["rows"][0]["n"]

    def keys(self, below: str) -> list[str]:
        s = self.stage
        prefix = urllib.parse.quote(f"{s.prefix}/{below}", safe="")
        listing = ElementTree.fromstring(s.s3("GET", f"/{s.bucket}?list-type=2&prefix={prefix}"))
        return [e.text for e in listing.iter() if e.tag.endswith("}Key") or e.tag == "Key"]

    def objects(self, keys: list[str]) -> dict:
        records = []
        for key in keys:
            record = event("s3")
            record["s3"]["bucket"]["name"] = self.stage.bucket
            record["s3"]["object"]["key"] = urllib.parse.quote_plus(key, safe="/")
            records.append(record)
        return {"Records": records}

    def messages(self, *bodies, **attributes) -> dict:
        records = []
        for n, body in enumerate(bodies):
            record = event("sqs")
            record["messageId"] = attributes.get("id", "message") + f"-{n}"
            record["body"] = body if isinstance(body, str) else json.dumps(body)
            given = {k.replace("_", "-"): v for k, v in attributes.items() if k not in ("id", "group")}
            record["messageAttributes"] = {k: {"stringValue": v, "dataType": "String"} for k, v in given.items()}
            if group := attributes.get("group"):
                record["attributes"]["MessageGroupId"] = group
            records.append(record)
        return {"Records": records}

    def sent(self, function: str, e: dict) -> list[str]:
        """The messages that are to come again."""
        ok, reply = self.stage.invoke(function, e)
        if not ok:
            raise AssertionError(f"{function} answered {reply}")
        return [failed["itemIdentifier"] for failed in reply["batchItemFailures"]]

    def compactor(self, e: dict) -> dict:
        ok, reply = self.stage.invoke("esker-compactor", e)
        if not ok:
            raise AssertionError(f"the compactor answered {reply}")
        return reply

    # What it must do.
    def health(self) -> None:
        for name in NAMES:
            expect(f"health of {name}", self.v2(name, "GET", "/healthz"), (200, {"status": "ok"}))

    def create(self) -> None:
        settings = {"name": COLLECTION, "dimension": DIMENSION, "metric": "l2"}
        status, reply = self.v2("esker-ingest", "POST", "/v1/collections", settings)
        if status not in (200, 201):
            raise AssertionError(f"create was answered {status}: {reply}")

    def write(self) -> None:
        status, reply = self.v2("esker-ingest", "POST", RECORDS, {"records": [row(n) for n in range(10)]})
        expect("upsert by v2", (status, reply.get("upserted")), (200, 10))
        status, reply = self.v1("esker-ingest", "POST", RECORDS, {"records": [row(n) for n in range(10, 15)]}, binary=True)
        expect("upsert by v1, in base64", (status, reply.get("upserted")), (200, 5))
        lines = "\n".join(json.dumps(row(n)) for n in range(15, 20)).encode()
        status, reply = self.url("esker-ingest", "POST", RECORDS, lines, {"content-type": "application/x-ndjson"})
        expect("upsert by URL, NDJSON", (status, json.loads(reply).get("upserted")), (200, 5))
        patch = {"records": [{"id": "row-000", "metadata": {"title": "zero"}}]}
        expect("patch", self.v2("esker-ingest", "PATCH", RECORDS, patch)[0], 200)

    def repeat(self) -> None:
        """The same event twice changes nothing the second time."""
        headers = {"idempotency-key": "order-17"}
        first = self.v2("esker-ingest", "POST", RECORDS, {"records": [row(20)]}, headers)
        again = self.v2("esker-ingest", "POST", RECORDS, {"records": [row(20)]}, headers)
        expect("first and second", (first[0], again[0], again[1].get("duplicate")), (200, 200, True))
        expect("their positions", again[1]["position"], first[1]["position"])

    def queue(self) -> None:
        good, poison = {"records": [row(21)]}, {"records": [row(22) | {"vector": [1.0]}]}
        e = self.messages(good, poison, {"records": [row(23)]}, id="sqs", collection=COLLECTION)
        again = self.sent("esker-ingest", e)
        dead = self.dead_letters()
        if dead is None:
            expect("messages that come again", again, ["sqs-1"])
        else:
            expect("messages that come again", again, [])
            expect("dead letters", [m["id"] for m in dead], ["sqs-1"])
            if "vector" not in dead[0]["reason"]:
                raise AssertionError(f"the reason is {dead[0]['reason']!r}")
        position = self.position()
        self.sent("esker-ingest", self.messages(good, id="sqs", collection=COLLECTION))
        expect("the position after a message came twice", self.position(), position)
        ids = self.messages({"ids": ["row-023"]}, id="del", collection=COLLECTION, operation="delete")
        expect("a message that deletes", self.sent("esker-ingest", ids), [])
        none = self.messages(good, id="none", collection="nowhere")
        expect("a message for no collection", self.sent("esker-ingest", none), ["none-0"])
        fifo = self.messages({"records": [row(24)]}, "no JSON", {"records": [row(25)]}, id="fifo", group="g", collection=COLLECTION)
        if dead is None:
            expect("a group stops at what goes back", self.sent("esker-ingest", fifo), ["fifo-1", "fifo-2"])
            rest = self.messages({"records": [row(25)]}, id="rest", collection=COLLECTION)
            self.sent("esker-ingest", rest)
        else:
            expect("a group goes on after what was put away", self.sent("esker-ingest", fifo), [])

    def position(self) -> int:
        return self.v2("esker-query", "GET", f"/v1/collections/{COLLECTION}")[1]["position"]

    def dead_letters(self):
        if not self.stage.environment.get("ESKER_DEAD_LETTERS"):
            return None
        request = {"QueueUrl": self.stage.environment["ESKER_DEAD_LETTERS"], "MaxNumberOfMessages": 10,
                   "MessageAttributeNames": ["All"]}
        found = sqs(self.stage, "ReceiveMessage", request).get("Messages", [])
        given = [m["MessageAttributes"] for m in found]
        return [{"id": a["esker-message-id"]["StringValue"], "reason": a["esker-reason"]["StringValue"]} for a in given]

    def search(self) -> None:
        """24 rows: 0 to 25 without 22, which was never one, and 23, which was deleted."""
        expect("rows by SQL", self.count(), 24)
        ask = {"vector": [6.1, 1.0, 0.0, 0.0], "k": 3, "filter": "even"}
        path = f"/v1/collections/{COLLECTION}/search"
        for way in (self.v1, self.v2):
            status, reply = way("esker-query", "POST", path, ask)
            expect("search", status, 200)
            expect("hits", [hit["id"] for hit in reply["hits"]], ["row-006", "row-008", "row-004"])
        status, reply = self.v2("esker-query", "GET", f"{RECORDS}/row-000")
        expect("the row that was patched", (status, reply["metadata"].get("title")), (200, "zero"))
        csv = {"accept": "text/csv"}
        status, reply = self.v1("esker-query", "POST", "/v1/sql", {"query": "SELECT id FROM docs WHERE n < 2 ORDER BY n"}, csv | {"Accept": "text/csv"})
        expect("SQL as CSV", (status, reply.split()), (200, [b"id", b"row-000", b"row-001"]))
        arrow = {"accept": "application/vnd.apache.arrow.stream"}
        status, reply = self.v2("esker-query", "POST", "/v1/sql", {"query": "SELECT id FROM docs"}, arrow)
        expect("SQL as Arrow", (status, reply[:4]), (200, b"\xff\xff\xff\xff"))

    def grpc_web(self) -> None:
        name = COLLECTION.encode()
        message = b"\x0a" + bytes([len(name)]) + name
        frame = b"\0" + struct.pack(">I", len(message)) + message
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        status, reply = self.v2("esker-query", "POST", "/esker.v1.Query/Count", frame, headers, binary=True)
        expect("status of gRPC-Web", status, 200)
        expect("the first field of the reply, a count", reply[5:7], b"\x08\x18")
        if b"grpc-status:0" not in reply:
            raise AssertionError(f"the trailers are {reply[-80:]!r}")

    def compact(self) -> None:
        logs = self.keys(f"c/{COLLECTION}-1/wal/")
        short = self.compactor(self.objects(logs[:1]))
        expect("a notification of a log that is not long", short[COLLECTION]["outcome"], "nothing")
        if not self.keys("dirty/"):
            raise AssertionError("no mark says that there is work")
        done = self.compactor(event("schedule"))
        expect("a tick", (done[COLLECTION]["outcome"], done[COLLECTION]["live_rows"]), ("folded", 24))
        expect("another tick", self.compactor(event("schedule")), {})
        expect("marks after it", self.keys("dirty/"), [])
        for n in range(16):
            self.v2("esker-ingest", "POST", RECORDS, {"records": [row(30 + n)]})
        marks = self.keys("dirty/")
        twice = self.messages(self.objects(marks), self.objects(marks), id="s3")
        expect("messages with notifications", self.sent("esker-compactor", twice), [])
        expect("marks after them", self.keys("dirty/"), [])
        expect("a message that is none", self.sent("esker-compactor", self.messages("{", id="bad")), ["bad-0"])
        self.v2("esker-ingest", "POST", RECORDS, {"records": [row(50)]})
        expect("a request", self.compactor({"collection": COLLECTION})[COLLECTION]["folded_entries"], 1)
        self.v2("esker-ingest", "POST", RECORDS, {"records": [row(51)]})
        status, reply = self.v2("esker-compactor", "POST", f"/v1/collections/{COLLECTION}/compact")
        expect("a request by HTTP", (status, reply["committed"], reply["live_rows"]), (200, True, 42))
        expect("garbage", self.compactor({"gc": True})[COLLECTION]["outcome"], "collected")
        expect("a sweep", self.compactor({"sweep": True})[COLLECTION]["outcome"], "nothing")
        expect("rows after it all", self.count(), 42)

    def delete(self) -> None:
        status, reply = self.v2("esker-query", "DELETE", RECORDS, {"filter": "n >= 30"})
        expect("delete by filter", (status, reply.get("deleted")), (200, 18))
        expect("rows after it", self.count(), 24)
        status, reply = self.v1("esker-query", "DELETE", RECORDS, {"ids": ["row-000", "row-001"]})
        expect("delete by id", (status, reply.get("deleted")), (200, 2))
        expect("rows after it", self.count(), 22)

    def refuse(self) -> None:
        before = len(self.keys(f"c/{COLLECTION}-1/"))
        status, reply = self.v2("esker-ingest", "POST", RECORDS, {"records": [{"id": "x", "vector": [1.0]}]})
        expect("a wrong dimension", (status, reply["error"]["kind"]), (400, "invalid"))
        for function, path, wanted in (("esker-ingest", "/nowhere", 404), ("esker-query", RECORDS, 405)):
            status, reply = self.v1(function, "GET" if wanted == 404 else "PUT", path)
            expect(f"{path} of {function}", status, wanted)
        e = event("v2") | {"body": "%%%", "isBase64Encoded": True}
        expect("what is no base64", self._answer("esker-ingest", e)[0], 400)
        for function, e in (("esker-query", event("schedule")), ("esker-ingest", event("schedule")),
                            ("esker-compactor", {"collection": "No Name"}), ("esker-compactor", {"what": 1})):
            ok, reply = self.stage.invoke(function, e)
            expect(f"{function} with an event that it does not know", ok, False)
        ok, reply = self.stage.invoke("esker-ingest", {"esker": "delete", "collection": COLLECTION})
        expect("a broken request to delete", reply["error"]["kind"], "invalid")
        expect("objects after all these", len(self.keys(f"c/{COLLECTION}-1/")), before)

    def tokens(self) -> None:
        """Whoever calls was let in by the gateway: the functions read no token, whether it is over or no token at all, and repeat none.
        `logs` looks for it."""
        before = self.keys("")
        caller = {"jwt": {"claims": {k: str(v) for k, v in CLAIMS.items()}, "scopes": None}}
        for claims in ({}, {"authorizer": caller}, {"authorizer": {"claims": caller["jwt"]["claims"]}}):
            e = event("v2")
            e["requestContext"] |= claims
            e["headers"]["authorization"] = f"Bearer {TOKEN}"
            for path, wanted in ((f"/v1/collections/{COLLECTION}", 200), ("/v1/collections/nowhere", 404)):
                e["rawPath"] = e["requestContext"]["http"]["path"] = path
                expect(f"GET {path} with a token that is over", self._answer("esker-query", e)[0], wanted)
            e["requestContext"]["http"]["method"], e["rawPath"] = "POST", RECORDS
            for body in (TOKEN, json.dumps({"records": TOKEN}), json.dumps({"records": [{"id": TOKEN, "vector": TOKEN}]})):
                expect("a write that is none", self._answer("esker-ingest", e | {"body": body})[0], 400)
        bad = event("v2") | {"rawPath": RECORDS}
        for more in ({"headers": TOKEN}, {"headers": {"authorization": [TOKEN]}}, {"headers": {"authorization": f"{TOKEN}\n"}},
                     {"headers": {TOKEN + " ": "x"}}, {"body": {"token": TOKEN}}, {"body": TOKEN + "%", "isBase64Encoded": True},
                     {"isBase64Encoded": TOKEN}, {"version": TOKEN}, {"requestContext": TOKEN}, {"rawPath": f"/v1/{TOKEN}"},
                     {"rawQueryString": f"access_token={TOKEN}"}, {"cookies": TOKEN}, {"rawPath": TOKEN},
                     {"requestContext": bad["requestContext"] | {"authorizer": TOKEN}},
                     {"requestContext": bad["requestContext"] | {"http": TOKEN}}):
            for name in NAMES:
                ok, reply = self.stage.invoke(name, bad | more)
                if ok and not 400 <= reply["statusCode"] < 500:
                    raise AssertionError(f"{name} answered {more} with {reply}")
        record = event("sqs")
        for e in (TOKEN, [TOKEN], {"Records": TOKEN}, {"Records": [TOKEN]}, {"Records": [record | {"body": {"token": TOKEN}}]},
                  {"Records": [record | {"messageId": [TOKEN]}]}, {"Records": [{"eventSource": TOKEN}]}, {"source": [TOKEN]},
                  {"esker": TOKEN}, {"collection": TOKEN}, {"what": TOKEN}, {"gc": TOKEN}, {TOKEN: 1}):
            for name in NAMES:
                ok, reply = self.stage.invoke(name, e)
                if ok and "error" not in reply:
                    raise AssertionError(f"{name} answered {e} with {reply}")
        for more in ({"collection": TOKEN}, {"collection": COLLECTION}, {"collection": COLLECTION, "operation": TOKEN},
                     {"collection": COLLECTION, "content_type": TOKEN}, {"collection": COLLECTION, "operation": "delete"}):
            self.sent("esker-ingest", self.messages(TOKEN, {"records": [{"id": TOKEN, "vector": TOKEN}]}, id="token", **more))
        self.sent("esker-compactor", self.messages(TOKEN, json.dumps(TOKEN), id="token"))
        many = {"records": [row(n) for n in range(10_001)]}
        expect("more than a batch", self.v2("esker-ingest", "POST", RECORDS, many)[0], 400)
        expect("objects after all these", self.keys(""), before)

    def upload(self) -> None:
        """What is more than a gateway takes goes past it, into the bucket."""
        settings = {"name": "large", "dimension": DIMENSION, "metric": "l2"}
        expect("create", self.v2("esker-ingest", "POST", "/v1/collections", settings)[0], 201)
        status, place = self.v2("esker-ingest", "POST", "/v1/collections/large/uploads")
        expect("status of an upload", (status, place.get("url", "")[:7]), (201, "http://"))
        rows = 14_000
        body = "".join(json.dumps(row(n) | {"metadata": {"text": "x" * 400}}) + "\n" for n in range(rows))
        if len(body) <= 6 << 20:
            raise AssertionError(f"{len(body)} bytes are no large body")
        expect("status of the PUT", self.stage.post(place["url"], body.encode(), {}, "PUT")[0], 200)
        commit = f"/v1/collections/large/uploads/{place['token']}/commit"
        late = {"x-esker-timeout-ms": "1"}
        status, error = self.v2("esker-ingest", "POST", commit, {"content_type": "application/x-ndjson"}, late)
        found = (status, error["error"]["kind"], error["error"]["token"])
        expect("a commit without time", found, (503, "unknown", place["token"]))
        for again in (False, True):
            status, done = self.v1("esker-ingest", "POST", commit, {"content_type": "application/x-ndjson"})
            found = (status, done.get("upserted"), done.get("done"), done.get("duplicate", False))
            expect("a commit", found, (200, rows, True, again))
        expect("rows of the body", self.count("large"), rows)
        print(f"   a body of {len(body) / 1e6:.1f} MB in {done['position']} entries, committed twice")

    def freeze(self) -> None:
        self.stage.freeze(float(os.environ.get("FREEZE", "3")))
        began = time.monotonic()
        status, reply = self.v2("esker-ingest", "POST", RECORDS, {"records": [row(60)]})
        expect("a write after the thaw", status, 200)
        expect("rows after it", self.count(), 23)
        expect("a delete after it", self.v2("esker-query", "DELETE", RECORDS, {"ids": ["row-060"]})[0], 200)
        done = self.compactor({"collection": COLLECTION})
        expect("a compaction after it", done[COLLECTION]["outcome"], "folded")
        print(f"   first four requests after it: {(time.monotonic() - began) * 1000:.0f} ms")

    def logs(self) -> None:
        for name in NAMES:
            lines = [json.loads(line) for line in self.stage.log(name).splitlines()]
            if name == "esker-compactor":
                continue
            requests = [line for line in lines if line.get("target") == "esker::request"]
            if not requests or not all(line["id"] and line["route"] for line in requests):
                raise AssertionError(f"{name} logged {requests[:1]}")
        text = "".join(self.stage.log(name) for name in NAMES)
        if self.stage.environment["AWS_SECRET_ACCESS_KEY"] in text:
            raise AssertionError("a log has the secret")
        for part in (*TOKEN.split("."), CLAIMS["sub"]):
            if part[:16] in text:
                line = next(line for line in text.splitlines() if part[:16] in line)
                raise AssertionError(f"a log has a part of a token: {line}")


def sqs(stage: Stage, action: str, request: dict) -> dict:
    reply = stage.curl("sqs", "POST", stage.endpoint, "-H", f"x-amz-target: AmazonSQS.{action}",
                       "-H", "content-type: application/x-amz-json-1.0", "-d", json.dumps(request))
    return json.loads(reply)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(sys.argv[1], "esker-functions", Path(folder))
        stage.s3("PUT", f"/{stage.bucket}")
        more = {}
        try:
            queue = sqs(stage, "CreateQueue", {"QueueName": f"dead-{os.getpid()}"})
            # Reached past the proxy, by the address of the S3 server.
            url = stage.endpoint + urllib.parse.urlparse(queue["QueueUrl"]).path
            more["ESKER_DEAD_LETTERS"] = stage.environment["ESKER_DEAD_LETTERS"] = url
        except (ValueError, KeyError):
            print("   this server has no queues: dead letters are not looked at")
        drive = Drive(stage)
        try:
            stage.start(**more)
            for step in ("health", "create", "write", "repeat", "queue", "search", "grpc_web", "compact", "delete", "refuse",
                         "tokens", "upload", "freeze", "logs"):
                began = time.monotonic()
                getattr(drive, step)()
                print(f"{step:9} {(time.monotonic() - began) * 1000:6.0f} ms")
            print(f"ok: {sys.argv[1]}")
        except BaseException:
            for name in NAMES:
                print(f"== {name} ==\n{stage.log(name)[-3000:]}", file=sys.stderr)
            raise
        finally:
            stage.stop()


if __name__ == "__main__":
    main()
