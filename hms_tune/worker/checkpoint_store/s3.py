"""An S3-compatible store. Address, region and keys come from the usual AWS variables and files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from hms_tune.errors import ArtifactError, UsageError, first_line

T = TypeVar("T")

_MOST_REMOVED = 1000  # of one DeleteObjects request
_WRITE_CHECK = "hms-tune-write-check"


class S3Store:
    """A prefix of a bucket. An object appears when its upload is complete, which S3 itself guarantees.

    Parameters
    ----------
    client : a boto3 S3 client
    bucket, prefix : where the keys begin; the prefix is empty or ends at a ``/``
    """

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    @classmethod
    def at(cls, address: str) -> Self:
        """The store at ``s3://bucket/prefix``.

        Raises
        ------
        UsageError
            If the address names no bucket, boto3 is missing, or it refuses its own configuration.
        """
        parts = urlsplit(address)
        if not parts.netloc:
            raise UsageError(
                "no bucket is named", where="HMS_TUNE_ARTIFACTS", hint="Write s3://BUCKET/PREFIX"
            )
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise UsageError(
                "s3:// needs boto3", where="HMS_TUNE_ARTIFACTS", hint='Run pip install "hms-tune[s3]"'
            ) from None
        config = Config(
            connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3}
        )
        try:
            client = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:  # an endpoint that is no address is a ValueError
            raise UsageError(
                f"S3: {error}",
                where="HMS_TUNE_ARTIFACTS",
                hint="Check AWS_PROFILE, AWS_ENDPOINT_URL and AWS's configuration files",
            ) from error
        prefix = parts.path.strip("/")
        return cls(client, parts.netloc, f"{prefix}/" if prefix else "")

    def put(self, key: str, path: Path) -> None:
        """Upload a file, in parts when it is large."""
        if not path.exists():
            raise FileNotFoundError(path)
        self._try(key, lambda: self._client.upload_file(str(path), self._bucket, self._prefix + key))

    def fetch(self, key: str, path: Path) -> None:
        """Download to ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._try(key, lambda: self._client.download_file(self._bucket, self._prefix + key, str(path)))

    def sizes(self, prefix: str) -> dict[str, int]:
        """List the objects."""

        def listed() -> dict[str, int]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            found = {
                item["Key"].removeprefix(self._prefix): int(item["Size"])
                for page in pages
                for item in page.get("Contents", ())
            }
            return dict(sorted(found.items()))

        return self._try(prefix, listed)

    def remove(self, keys: Collection[str]) -> None:
        """Delete objects, a thousand at a time."""
        names = [{"Key": self._prefix + key} for key in keys]
        for start in range(0, len(names), _MOST_REMOVED):
            batch = {"Objects": names[start : start + _MOST_REMOVED], "Quiet": True}
            remove = functools.partial(self._client.delete_objects, Bucket=self._bucket, Delete=batch)
            self._try(names[start]["Key"].removeprefix(self._prefix), remove)

    def room(self) -> int | None:
        """S3 does not say."""
        return None

    def check_writable(self) -> None:
        """Store an empty object and remove it: S3 tells nobody beforehand what they may do."""
        key = self._prefix + _WRITE_CHECK
        self._try(_WRITE_CHECK, lambda: self._client.put_object(Bucket=self._bucket, Key=key, Body=b""))
        self.remove([_WRITE_CHECK])

    def _try(self, key: str, action: Callable[[], T]) -> T:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return action()
        except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
            raise ArtifactError(
                f"S3: {first_line(error)}",
                where=f"s3://{self._bucket}/{self._prefix}{key}",
                hint="Check the bucket, AWS_ENDPOINT_URL and the AWS credentials",
            ) from error
