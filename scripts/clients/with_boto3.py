"""boto3: lists the bucket and reads the objects of the collection `pages`, for the scripts that open them."""

import os

import boto3

from common import FILES, done

bucket, _, prefix = os.environ["ESKER_STORE"].removeprefix("s3://").partition("/")
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name=os.environ["AWS_REGION"])
count = size = 0
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/c/pages-1/"):
    for listed in page.get("Contents", []):
        path = FILES / listed["Key"].removeprefix(f"{prefix}/c/pages-1/")
        path.parent.mkdir(parents=True, exist_ok=True)
        body = client.get_object(Bucket=bucket, Key=listed["Key"], IfMatch=listed["ETag"])["Body"].read()
        assert len(body) == listed["Size"], listed
        path.write_bytes(body)
        count, size = count + 1, size + len(body)
for folder in ("wal", "segment", "manifest"):
    assert any((FILES / folder).iterdir()), f"nothing in {folder}"
assert (FILES / "head").is_file()
done(boto3.__version__, f"listed and read {count} objects, {size} bytes")
