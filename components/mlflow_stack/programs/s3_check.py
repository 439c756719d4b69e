"""Check of the bucket with the server's permissions: list, write, read and delete one small object.

``S3_ROOT`` is the root of the artifacts. The last line of the log names the error and its remedy.
"""

# boto3 has no types.
# pyright: basic

import os
import secrets
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEYS = "artifactStore.s3.accessKeyId and secretAccessKey (or the existingSecret)"
ADVICE = {
    "NoSuchBucket": "it does not exist; make it, or put artifactStore.s3.bucket right",
    "InvalidAccessKeyId": f"the server does not know the access key; put {KEYS} right",
    "SignatureDoesNotMatch": f"the secret key is wrong; put {KEYS} right",
    "AccessDenied": f"the keys do not allow it; allow it, or put {KEYS} right",
}


def check(client: Any, bucket: str, prefix: str) -> str | None:
    """Return what is wrong; None if all four operations are allowed."""
    key = "/".join(filter(None, (prefix, f".bucket-check-{secrets.token_hex(8)}")))
    body = secrets.token_bytes(32)
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("list", lambda: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)),
        ("write", lambda: client.put_object(Bucket=bucket, Key=key, Body=body)),
        ("read", lambda: client.get_object(Bucket=bucket, Key=key)["Body"].read()),
        ("delete", lambda: client.delete_object(Bucket=bucket, Key=key)),
    ]
    for verb, step in steps:
        try:
            answer = step()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            advice = ADVICE.get(code, error.response["Error"].get("Message") or "no reason given")
            return f"bucket {bucket}: cannot {verb} {key if verb != 'list' else prefix or 'it'} ({code}): {advice}"
        except BotoCoreError as error:
            return (
                f"bucket {bucket}: the S3 server does not answer ({error}); "
                "put artifactStore.s3.endpointUrl right, or start the server"
            )
        if verb == "read" and answer != body:
            return f"bucket {bucket}: {key} came back with another content; the server behind it is no S3 server"
    return None


def main() -> int:
    root = urlsplit(os.environ["S3_ROOT"])
    style = os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")
    client = boto3.client(
        "s3",
        endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": style},
            connect_timeout=10,
            read_timeout=20,
            retries={"total_max_attempts": 3},
        ),
    )
    problem = check(client, root.netloc, root.path.strip("/"))
    print(
        problem or f"bucket {root.netloc}: lists, writes, reads and deletes", file=sys.stderr if problem else sys.stdout
    )
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
