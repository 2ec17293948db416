"""A check in the place of schemathesis' own `positive_data_acceptance`: what the document admits is accepted. A refusal is a
fault unless it is about one of the fields below, of which JSON Schema cannot say what is wrong."""

import re

import schemathesis
from schemathesis import GenerationMode

UNSAID = {
    r"vector|vectors(\[\d+\])?": "as many numbers as the collection has dimensions, finite as f32",
    r"records\[\d+\]\..*|id": "so have records; ids are measured in bytes; keys are known, not reserved, and of one type; times are of the calendar",
    r"metadata(\..*)?": "keys that are not reserved, and names of types",
    r"filter(\..*)?|query|params": "text is SQL, objects are a language of their own",
    r"min_recall|max_distance": "read as f32, in which the least numbers are 0",
    r"include": "columns that the collection has",
    r"cursor": "what an earlier reply said",
    r"as_of|min_position": "one state, which goes with strong consistency and may not be there yet",
    r"if_absent|if_version|ids": "one of two fields",
}
# To a schema 7.0 is an integer.
POINT = "invalid type: floating point"


@schemathesis.check
def what_the_document_admits_is_accepted(ctx, response, case):
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE or response.status_code != 400:
        return
    error = response.json()["error"]
    field = error["field"] or ""
    named = any(re.fullmatch(pattern, field, re.DOTALL) for pattern in UNSAID)
    if not named and POINT not in error["message"]:
        raise AssertionError(f"admitted by the document and refused: {field}: {error['message']}")
