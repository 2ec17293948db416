#!/usr/bin/env python3
"""What scripts/check-terraform.sh asks of infra/terraform, its documents, alarms and dashboards.

  policies PLAN.json...   what the planned roles may do, and that this check would see them do more
  documents [--write]     tables, routes, alarms, runbook pages and metrics agree
  queries                 each PromQL expression parses (needs promql-parser)
"""

import copy
import fnmatch
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "infra/terraform"
RUNBOOK = ROOT / "docs/operations/runbook"
GRAFANA = ROOT / "infra/grafana"

# --- policies ---------------------------------------------------------------------------------------------------------

# One key of each kind (docs/format/keys.md), below the store's prefix.
KEYS = {
    "store": "store",
    "names": "names/notes/18446744073709551614",
    "dirty": "dirty/notes-1/18446744073709551614",
    "wal": "c/notes-1/wal/18446744073709551614.avro",
    "manifest": "c/notes-1/manifest/18446744073709551614",
    "head": "c/notes-1/head",
    "segment": "c/notes-1/segment/00000000000000000001-0.parquet",
    "deletes": "c/notes-1/deletes/00000000000000000001-0",
    "body": "c/notes-1/body/18446744073709551614-0.avro",
    "inbox": "c/notes-1/inbox/18446744073709551614-0",
    "pins": "c/notes-1/pins/00000000000000000001-0",
    "work": "c/notes-1/work/00000000000000000001-0",
    "upload": "c/notes-1/upload/00000000000000000000000000000000",
}
OF_COLLECTION = set(KEYS) - {"store", "names", "dirty"}
INGEST = {
    "s3:GetObject": OF_COLLECTION | {"store", "names"},
    "s3:PutObject": {"wal", "body", "inbox", "upload", "manifest", "head", "names", "dirty"},
    "s3:DeleteObject": set(),
}
# What each role may do to which objects: all of it, and no more.
OBJECTS = {
    "query": {"s3:GetObject": OF_COLLECTION | {"store", "names"}, "s3:PutObject": set(), "s3:DeleteObject": set()},
    "ingest": INGEST,
    "compactor": {
        "s3:GetObject": set(KEYS),
        "s3:PutObject": {"segment", "deletes", "manifest", "head", "work", "dirty"},
        "s3:DeleteObject": OF_COLLECTION - {"manifest"} | {"dirty"},
    },
    "service": INGEST,
    "start": {"s3:GetObject": set(), "s3:PutObject": set(), "s3:DeleteObject": set()},
}
LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
READS = {"s3:GetObject", "s3:ListBucket", "kms:Decrypt"}
WRITES = READS | {"s3:PutObject", "s3:AbortMultipartUpload", "kms:GenerateDataKey"}
# Every action that a role may have at all.
ACTIONS = {
    "query": READS | LOGS | {"lambda:InvokeFunction"},
    "ingest": WRITES | LOGS | {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:SendMessage"},
    "compactor": WRITES | LOGS | {"s3:DeleteObject", "sqs:SendMessage"},
    "service": WRITES,
    "start": LOGS | {"secretsmanager:GetSecretValue"},
}


def resources(plan):
    """Every planned resource, those of modules too."""
    def walk(module):
        yield from module.get("resources", [])
        for child in module.get("child_modules", []):
            yield from walk(child)

    return list(walk(plan["planned_values"]["root_module"]))


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(policy):
    return listed(json.loads(policy)["Statement"])


def findings(plan):
    """What is wrong with the planned policies."""
    found = []
    of_type = {}
    for resource in resources(plan):
        of_type.setdefault(resource["type"], []).append(resource["values"])
    bucket = of_type["aws_s3_bucket"][0]["bucket"]
    variables = [f["environment"][0]["variables"] for f in of_type["aws_lambda_function"]]
    store = variables[0]["ESKER_STORE"].removeprefix("s3://")
    root = f"arn:aws:s3:::{store}/"
    names = {role["name"]: role["name"].rsplit("-", 1)[1] for role in of_type["aws_iam_role"]}

    for kind in of_type:
        if kind.startswith("aws_iam_") and kind not in {"aws_iam_role", "aws_iam_role_policy", "aws_iam_policy_document"}:
            found.append(f"{kind}: policies are inline, so that this check sees all of them")
    for role in of_type["aws_iam_role"]:
        if role.get("managed_policy_arns") or role.get("inline_policy"):
            found.append(f"{role['name']}: has policies that are no resource of their own")
        if names[role["name"]] not in ACTIONS:
            found.append(f"{role['name']}: is a role that this check does not know")
    for function in of_type["aws_lambda_function"]:
        if not function["role"].endswith(f"/{function['function_name']}"):
            found.append(f"{function['function_name']}: has the role of another")

    granted = {short: [] for short in ACTIONS}
    for policy in of_type["aws_iam_role_policy"]:
        short = names[policy["role"]]
        for statement in statements(policy["policy"]):
            granted[short].append(statement)
            found += [f"{short}: {problem}" for problem in wrong(statement, short, bucket, root)]
    for short in {names[role["name"]] for role in of_type["aws_iam_role"]} & set(ACTIONS):
        found += [f"{short}: {problem}" for problem in reach(granted[short], short, root)]
    for policy in of_type["aws_s3_bucket_policy"]:
        if any(s["Effect"] != "Deny" for s in statements(policy["policy"])):
            found.append("the bucket's policy allows something: roles alone do")
    return found


def wrong(statement, short, bucket, root):
    """What is wrong with one statement by itself."""
    if statement["Effect"] != "Allow" or {"NotAction", "NotResource"} & set(statement):
        yield f"{statement.get('Sid')}: says what it allows by leaving out"
        return
    for action in listed(statement["Action"]):
        if action not in ACTIONS[short]:
            yield f"{action} is not for this role"
    for resource in listed(statement["Resource"]):
        arn = resource.split(":", 5)
        if len(arn) < 6 or any("*" in part or "?" in part for part in arn[:5]) or arn[5].startswith("*"):
            yield f"{resource} is any resource"
        elif arn[2] == "s3" and arn[5] != bucket and (not resource.startswith(root) or resource == root + "*"):
            yield f"{resource} is more than the store's folders"
        elif arn[2] == "logs" and not arn[5].endswith(":*") or arn[2] not in {"s3", "logs"} and "*" in arn[5]:
            yield f"{resource} has a wildcard"
    if "s3:ListBucket" in listed(statement["Action"]):
        prefixes = statement.get("Condition", {}).get("StringLikeIfExists", {}).get("s3:prefix", ["*"])
        folder = root.split("/", 1)[1]
        if any(not p.startswith(folder) or p in {"*", folder + "*"} for p in listed(prefixes)):
            yield "ListBucket is not held to the store's folders"


def reach(granted, short, root):
    """Which kinds of object a role reaches against which it should."""
    for action, expected in OBJECTS[short].items():
        patterns = [
            r for s in granted if s["Effect"] == "Allow" and action in listed(s.get("Action", [])) for r in listed(s["Resource"])
        ]
        reached = {kind for kind, key in KEYS.items() if any(fnmatch.fnmatchcase(root + key, p) for p in patterns)}
        for kind in sorted(reached - expected):
            yield f"{action} reaches {kind}"
        for kind in sorted(expected - reached):
            yield f"{action} does not reach {kind}, which it needs"


def mutations():
    """Ways in which a plan could allow too much: name, and what does it."""
    def statement(role, action, resource="ROOT*"):
        def change(plan):
            for r in resources(plan):
                if r["type"] == "aws_iam_role_policy" and r["values"]["role"].endswith("-" + role) and r["name"] == "store":
                    policy = json.loads(r["values"]["policy"])
                    read = next(s for s in policy["Statement"] if s["Sid"] == "Read")
                    target = read["Resource"] if resource == "ROOT*" else resource
                    policy["Statement"].append({"Effect": "Allow", "Action": action, "Resource": target})
                    r["values"]["policy"] = json.dumps(policy)
        return change

    def beside(role, action):
        """Adds an action to the statement that reads."""
        def change(plan):
            for r in resources(plan):
                if r["type"] == "aws_iam_role_policy" and r["values"]["role"].endswith("-" + role) and r["name"] == "store":
                    policy = json.loads(r["values"]["policy"])
                    read = next(s for s in policy["Statement"] if s["Sid"] == "Read")
                    read["Action"] = listed(read["Action"]) + [action]
                    r["values"]["policy"] = json.dumps(policy)
        return change

    def replaced(name, old, new):
        def change(plan):
            for r in resources(plan):
                if r["type"] == "aws_iam_role_policy" and r["name"] == name:
                    r["values"]["policy"] = re.sub(old, new, r["values"]["policy"])
        return change

    def attached(plan):
        values = {"role": "esker-query", "policy_arn": "arn:aws:iam::aws:policy/AmazonS3FullAccess"}
        plan["planned_values"]["root_module"].setdefault("resources", []).append(
            {"type": "aws_iam_role_policy_attachment", "name": "x", "values": values})

    def swapped(plan):
        functions = [r["values"] for r in resources(plan) if r["type"] == "aws_lambda_function"]
        by_name = {f["function_name"].rsplit("-", 1)[1]: f for f in functions}
        by_name["query"]["role"] = by_name["compactor"]["role"]

    def public(plan):
        for r in resources(plan):
            if r["type"] == "aws_s3_bucket_policy":
                policy = json.loads(r["values"]["policy"])
                for s in listed(policy["Statement"]):
                    s["Effect"] = "Allow"
                r["values"]["policy"] = json.dumps(policy)

    return {
        "query may put": beside("query", "s3:PutObject"),
        "query may delete": beside("query", "s3:DeleteObject"),
        "ingest may delete": beside("ingest", "s3:DeleteObject"),
        "ingest may delete, by a statement of its own": statement("ingest", "s3:DeleteObject"),
        "query may do anything in S3": statement("query", "s3:*"),
        "query may put by a pattern": statement("query", "s3:Put*"),
        "ingest may put anywhere": statement("ingest", "s3:PutObject", "*"),
        "compactor may delete names": statement("compactor", "s3:DeleteObject"),
        "compactor may set the bucket's policy": beside("compactor", "s3:PutBucketPolicy"),
        "ingest may write segments": replaced("store", r"c/\*/wal/\*", "c/*/segment/*"),
        "lists the whole bucket": replaced("store", r'"StringLikeIfExists": *\{[^}]*\}', '"Bool":{"aws:SecureTransport":"true"}'),
        "query may invoke anything": replaced("invoke", r'"arn:[^"]*"', '"*"'),
        "a managed policy": attached,
        "query runs as the compactor": swapped,
        "the bucket's policy allows": public,
    }


def policies(plans):
    failed = False
    for path in plans:
        plan = json.loads(Path(path).read_text())
        for problem in findings(plan):
            failed = True
            print(f"{path}: {problem}")
        for name, change in mutations().items():
            changed = copy.deepcopy(plan)
            change(changed)
            if changed == plan:
                failed = True
                print(f"{path}: the change `{name}` changes nothing: this check checks nothing")
            elif not findings(changed):
                failed = True
                print(f"{path}: the change `{name}` would not be seen")
        for problem in routes(plan):
            failed = True
            print(f"{path}: {problem}")
    if not failed:
        print(f"policies: {len(plans)} plans as they should be; {len(mutations())} ways to allow more are seen in each")
    return failed


# --- routes -----------------------------------------------------------------------------------------------------------

# What a gateway in front of functions does not serve: what belongs to a process, streams of requests, native gRPC.
NOT_HERE = {
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "POST /esker.v1.Ingest/UpsertStream",
    "POST /esker.v1.Admin/Compact",
}


def routes(plan):
    """The gateway's routes against the table of the server."""
    source = (ROOT / "crates/esker/src/serve/access.rs").read_text()
    rules = re.findall(r'rule\(Method::(\w+), "([^"]+)", (\w+),', source)
    rules += [("POST", path, scope) for path, scope in re.findall(r'rpc\("([^"]+)", (\w+),', source)]
    plain = lambda path: re.sub(r"\{[^}]*\}", "{}", path)
    expected = {f"{m} {plain(p)}": scope.lower() for m, p, scope in rules if not p.startswith("/grpc.")}
    expected = {route: scope for route, scope in expected.items() if route not in NOT_HERE}
    planned = {}
    for resource in resources(plan):
        if resource["type"] == "aws_apigatewayv2_route":
            values = resource["values"]
            planned[plain(values["route_key"])] = values
            if values["authorization_type"] not in {"AWS_IAM", "JWT"}:
                yield f"{values['route_key']}: anybody may call it"
    for route in sorted(expected.keys() - planned.keys()):
        yield f"{route}: the gateway lacks it"
    for route in sorted(planned.keys() - expected.keys()):
        yield f"{route}: no server has it"
    for route in expected.keys() & planned.keys():
        scopes = planned[route].get("authorization_scopes") or []
        least = next((s for s in ("read", "write", "admin") if any(x.endswith(s) for x in scopes)), "none")
        if scopes and least != expected[route]:
            yield f"{route}: scope {least} is enough; the server asks for {expected[route]}"


# --- documents --------------------------------------------------------------------------------------------------------

def blocks(text, kind):
    """The blocks `kind "name" {...}` of a file as terraform fmt writes it."""
    return re.findall(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}', text, re.M | re.S)


def attribute(body, name):
    """An attribute of a block, on one line or up to the bracket that closes it."""
    found = re.search(rf"^  {name} += (.*(?:[({{\[]\n(?:    .*\n|\n)*  [)}}\]]+)?)", body, re.M)
    return re.sub(r"\s+", " ", found[1]).strip() if found else None


def tables():
    """The tables of inputs and outputs."""
    rows = ["| input | default | |", "|---|---|---|"]
    for name, body in blocks((MODULE / "variables.tf").read_text(), "variable"):
        kind, default = attribute(body, "type"), attribute(body, "default")
        if kind.startswith("object"):
            fields = re.findall(r"(\w+) += (?:optional\(\w+(?:\(\w+\))?, (.*?)\)|\w+(?:\(\w+\))?)\s*$", body, re.M)
            fields = ", ".join(f"{f} = {d}" if d else f for f, d in fields if f not in {"type", "default", "description"})
            default = f"{{ {fields} }}" if default == "{}" else f"{default}; an object of {fields}"
        rows.append(f"| `{name}` | `{default}` | {attribute(body, 'description').strip(chr(34))} |")
    rows += ["", "| output | |", "|---|---|"]
    for name, body in blocks((MODULE / "outputs.tf").read_text(), "output"):
        rows.append(f"| `{name}` | {attribute(body, 'description').strip(chr(34))} |")
    return "\n".join(rows)


def tabled(text):
    return re.sub(r"(<!-- tables -->\n).*?(\n<!-- /tables -->)", lambda m: m[1] + tables() + m[2], text, flags=re.S)


def alarms():
    """Name of each alarm's page, by what names it."""
    text = (MODULE / "alarms.tf").read_text()
    pages = {page: "alarms.tf" for page in re.findall(r"/([\w-]+)\.md", text)}
    pages |= {page: "alarms.tf" for page in re.findall(r'^    ([\w-]+) = \{\n      metric', text, re.M)}
    return pages | {rule["page"]: "alerts.yaml" for rule in rules()}


def rules():
    """The rules of infra/grafana/alerts.yaml: name, expression and page. The file is written in one simple form."""
    text = (GRAFANA / "alerts.yaml").read_text()
    for part in text.split("      - alert: ")[1:]:
        expression = re.search(r"        expr: (.*(?:\n          .*)*)", part)[1]
        page = re.search(r"runbook: \S*/([\w-]+)\.md", part)
        yield {
            "name": part.split("\n", 1)[0],
            "expr": re.sub(r"^[>|]-?\s*", "", expression),
            "page": page[1] if page else "none",
        }


def expressions():
    """Every PromQL expression, and where it is."""
    for rule in rules():
        yield f"alerts.yaml: {rule['name']}", rule["expr"]
    board = json.loads((GRAFANA / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard.json: {panel['title']}", target["expr"]


def documents(write):
    problems = []
    readme = MODULE / "README.md"
    text = readme.read_text()
    if write:
        readme.write_text(tabled(text))
    elif tabled(text) != text:
        problems.append("infra/terraform/README.md: its tables are not of these inputs and outputs; run with --write")
    if "<!-- tables -->" not in text:
        problems.append("infra/terraform/README.md: it has no place for tables")

    pages = {page.stem for page in RUNBOOK.glob("*.md")} - {"README"}
    wanted = alarms()
    problems += [f"{where}: {page} has no page in docs/operations/runbook" for page, where in wanted.items() if page not in pages]
    problems += [f"docs/operations/runbook/{page}.md: no alarm is called so" for page in sorted(pages - wanted.keys())]
    index = (RUNBOOK / "README.md").read_text()
    problems += [f"docs/operations/runbook/README.md: lacks {page}" for page in sorted(pages) if f"({page}.md)" not in index]

    metrics = dict(re.findall(r"^\| `(esker_\w+)` \| (\w+)", (ROOT / "docs/operations/metrics.md").read_text(), re.M))
    for where, expression in expressions():
        for name in re.findall(r"esker_\w+", expression):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            if name not in metrics and metrics.get(plain) != "histogram":
                problems.append(f"{where}: {name} is not in docs/operations/metrics.md")
    for page in RUNBOOK.glob("*.md"):
        for name in re.findall(r"esker_\w+", page.read_text()):
            if name not in metrics and metrics.get(re.sub(r"_(bucket|sum|count)$", "", name)) != "histogram":
                problems.append(f"{page.name}: {name} is not in docs/operations/metrics.md")
    for problem in problems:
        print(problem)
    if not problems:
        print(f"documents: {len(wanted)} alarms have their page; tables and metrics agree")
    return bool(problems)


def queries():
    import promql_parser

    failed = False
    count = 0
    for where, expression in expressions():
        count += 1
        try:
            promql_parser.parse(expression.replace("$__rate_interval", "5m"))
        except ValueError as e:
            failed = True
            print(f"{where}: {expression}: {e}")
    if not failed:
        print(f"queries: {count} expressions parse")
    return failed


def main():
    match sys.argv[1:]:
        case ["policies", *plans] if plans:
            return policies(plans)
        case ["documents", *rest] if rest in ([], ["--write"]):
            return documents(bool(rest))
        case ["queries"]:
            return queries()
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
