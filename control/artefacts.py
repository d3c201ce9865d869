"""The artefact store: S3, and nothing else that knows boto3.

Four verbs move bytes (`fetch`, `put`, `head`, `delete`), three make links for clients (`upload_link`, `part_link`,
`download_link`), and the rest is about objects that come in parts. A missing or slow S3 is `Unavailable`, whatever
boto3 calls it.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from control.fetching import altered, fetch_each, gone
from control.settings import Settings
from vlyard.errors import Unavailable
from vlyard.files import Stored, sha256_of

_PATIENT = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 3, "mode": "standard"}}
_BRIEF = {"connect_timeout": 2, "read_timeout": 3, "retries": {"max_attempts": 1, "mode": "standard"}}
_CHUNK = 2**20
_WHOLE_BYTES = 8 * 2**20  # what is smaller is sent whole
_WHOLE = TransferConfig(multipart_threshold=_WHOLE_BYTES, use_threads=False)
_IN_PARTS = TransferConfig(multipart_threshold=_WHOLE_BYTES)


@dataclass(frozen=True)
class Part:
    """A part that is there."""

    bytes: int
    etag: str


@dataclass(frozen=True)
class Multipart:
    """An object that comes in parts, and is not put together yet."""

    key: str
    upload: str  # S3's name for it
    began_at: datetime


class ArtefactStore:
    """One bucket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bucket = settings.s3_bucket
        self._region = settings.s3_region
        self._presign_seconds = settings.presign_seconds
        self._client = _client(settings, settings.s3_endpoint)
        self._public = _client(settings, settings.s3_public_url or settings.s3_endpoint)

    def ensure_bucket(self) -> None:
        """Make the bucket where it is missing, and let browsers use presigned links from any page."""
        with _translated():
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _status(error) != 404:
                    raise
                self._create_bucket()
            rule = {
                "AllowedMethods": ["GET", "HEAD", "PUT"],
                "AllowedOrigins": ["*"],
                "AllowedHeaders": ["*"],
                "ExposeHeaders": ["ETag"],
            }
            self._client.put_bucket_cors(Bucket=self._bucket, CORSConfiguration={"CORSRules": [rule]})

    def _create_bucket(self) -> None:
        try:
            self._client.create_bucket(Bucket=self._bucket)
        except ClientError as error:
            if _status(error) != 409:  # another process made it meanwhile
                raise

    def reachable(self) -> None:
        """Raises `Unavailable` where the bucket cannot be reached."""
        with _translated():
            self._prober.head_bucket(Bucket=self._bucket)

    @cached_property
    def _prober(self) -> Any:
        return _client(self._settings, self._settings.s3_endpoint, **_BRIEF)

    def fetch(self, file: Stored, path: Path) -> None:
        """Write a file's content to `path`; raises `InvalidInput` where it is gone, or is not what was stored.

        Then there is no file.
        """
        self.fetch_each({path: file}, lambda _: None)

    def fetch_each(self, files: Mapping[Path, Stored], told: Callable[[int], None]) -> None:
        """The same for many files at once.

        `told` hears several times a second how many bytes have come, and raises when it is time to stop; then what has
        arrived whole stays.
        """
        fetch_each(self._range, files, told)

    def _range(self, file: Stored, begin: int, end: int | None) -> Iterator[bytes]:
        """A file's bytes from one to another; raises `InvalidInput` where it is gone, or has another length."""
        whole = begin == 0 and end in {None, file.bytes}
        wanted = {} if whole or end is None else {"Range": f"bytes={begin}-{end - 1}"}
        with _translated():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=file.key, **wanted)
            except ClientError as error:
                if _status(error) == 404:
                    raise gone(file) from error
                if _status(error) == 416:
                    raise altered(file) from error
                raise
            with closing(answer["Body"]) as body:
                if wanted:
                    _expect_range(file, begin, answer.get("ContentRange", ""))
                yield from body.iter_chunks(_CHUNK)

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:
        """Store a file under a key; returns its length in bytes and its SHA-256 in hexadecimal."""
        sha256, size = sha256_of(path), path.stat().st_size
        with _translated():
            self._client.upload_file(
                str(path), self._bucket, key, ExtraArgs={"ContentType": media_type}, Config=_transfer(size)
            )
        return size, sha256

    def put_bytes(self, key: str, content: bytes, media_type: str) -> None:
        """Store a small object."""
        with _translated():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content, ContentType=media_type)

    def head(self, key: str) -> tuple[int, str] | None:
        """The length and SHA-256 (empty where S3 keeps none) of the object under a key; None where there is none."""
        with _translated():
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
        checksum = answer.get("ChecksumSHA256", "")
        return answer["ContentLength"], base64.b64decode(checksum).hex()

    def read(self, key: str) -> Iterator[bytes]:
        """The content of an object, in pieces."""
        with _translated():
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            yield from body.iter_chunks(_CHUNK)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with _translated():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_each(self, keys: Sequence[str]) -> None:
        """Remove objects, 1000 at most; those that are not there are no error."""
        with _translated():
            rows = [{"Key": key} for key in keys]
            answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": rows, "Quiet": True})
        if errors := answer.get("Errors"):
            raise Unavailable(f"the artefact store did not remove {len(errors)} objects: {errors[0].get('Message')}")

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The key and length of every object whose key begins so."""
        with _translated():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for row in page.get("Contents", ()):
                    yield row["Key"], row["Size"]

    # --- objects that come in parts ---------------------------------------------------------------------------

    def open_multipart(self, key: str, media_type: str) -> str:
        """Begin an object that comes in parts; returns S3's name for the upload."""
        with _translated():
            answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, ContentType=media_type)
        upload: str = answer["UploadId"]
        return upload

    def parts(self, key: str, upload: str) -> Mapping[int, Part] | None:
        """The parts that are there, by their numbers; None where there is no such upload, or not any more."""
        found: dict[int, tuple[datetime, Part]] = {}
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
        with _translated():
            try:
                for row in (row for page in pages for row in page.get("Parts", ())):
                    # A part that was sent twice is listed twice by SeaweedFS; the later one counts.
                    was_at = found[row["PartNumber"]][0] if row["PartNumber"] in found else row["LastModified"]
                    if row["LastModified"] >= was_at:
                        found[row["PartNumber"]] = row["LastModified"], Part(row["Size"], row["ETag"])
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
        return {number: part for number, (_, part) in found.items()}

    def part_link(self, key: str, upload: str, number: int, length: int) -> tuple[str, dict[str, str]]:
        """A URL for one PUT of a part of exactly this length, and the headers that the PUT must carry."""
        parameters = {
            "Bucket": self._bucket,
            "Key": key,
            "UploadId": upload,
            "PartNumber": number,
            "ContentLength": length,
        }
        url = self._public.generate_presigned_url("upload_part", parameters, ExpiresIn=self._presign_seconds)
        return url, {"Content-Length": str(length)}

    def join(self, key: str, upload: str, parts: Mapping[int, Part]) -> None:
        """Put an object together from all its parts; one that somebody else put together meanwhile is no error."""
        rows = [{"PartNumber": number, "ETag": parts[number].etag} for number in sorted(parts)]
        with _translated():
            try:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": rows}
                )
            except ClientError as error:
                if _status(error) != 404:
                    raise

    def abort(self, key: str, upload: str) -> None:
        """Give up an object that comes in parts, and remove the parts; one that is not there is no error."""
        with _translated():
            try:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
            except ClientError as error:
                if _status(error) != 404:
                    raise

    def multiparts(self, prefix: str) -> Iterator[Multipart]:
        """Every object below a prefix that comes in parts and is not put together."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
        with _translated():
            for row in (row for page in pages for row in page.get("Uploads", ())):
                yield Multipart(row["Key"], row["UploadId"], row["Initiated"])

    # --- links for clients ------------------------------------------------------------------------------------

    def upload_link(self, file: Stored) -> tuple[str, dict[str, str]]:
        """A URL for one PUT of exactly these bytes, and the headers that the PUT must carry."""
        checksum = base64.b64encode(bytes.fromhex(file.sha256)).decode()
        parameters = {
            "Bucket": self._bucket,
            "Key": file.key,
            "ContentLength": file.bytes,
            "ContentType": file.media_type,
            "ChecksumSHA256": checksum,
        }
        url = self._public.generate_presigned_url("put_object", parameters, ExpiresIn=self._presign_seconds)
        headers = {
            "Content-Length": str(file.bytes),
            "Content-Type": file.media_type,
            "x-amz-checksum-sha256": checksum,
        }
        return url, headers

    def download_link(self, file: Stored) -> str:
        """A URL that serves a file under its name for a while."""
        parameters = {
            "Bucket": self._bucket,
            "Key": file.key,
            "ResponseContentType": file.media_type,
            "ResponseContentDisposition": disposition(file.name),
        }
        url: str = self._public.generate_presigned_url("get_object", parameters, ExpiresIn=self._presign_seconds)
        return url


def disposition(name: str) -> str:
    """The value of Content-Disposition with which something is saved under that name."""
    # The form of RFC 6266 for every client, and the one of RFC 5987 for names that the first cannot hold.
    plain = name.replace("\\", "_").replace('"', "_").encode("ascii", "replace").decode()
    extended = "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'


def _client(settings: Settings, endpoint: str, **patience: Any) -> Any:
    secret = settings.s3_secret_key.get_secret_value()
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key or None,
        aws_secret_access_key=secret or None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            **(_PATIENT | patience),
            request_checksum_calculation="when_required",
        ),
    )


def _transfer(length: int) -> TransferConfig:
    """How a file of this length travels. Threads for one request are of no use, and can fail to start."""
    return _WHOLE if length < _WHOLE_BYTES else _IN_PARTS


def _expect_range(file: Stored, begin: int, said: str) -> None:
    """What S3 says of the range that it sends, such as `bytes 5-9/100`."""
    if not said.startswith(f"bytes {begin}-"):
        raise Unavailable(f"the artefact store sent another range of {file.name} than was asked for")
    if said.rpartition("/")[2] not in {"*", str(file.bytes)}:
        raise altered(file)


def _status(error: ClientError) -> int:
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, Boto3Error) as error:
        raise Unavailable("the artefact store does not answer") from error
    except ClientError as error:
        raise Unavailable(f"the artefact store answered with an error: {error}") from error
