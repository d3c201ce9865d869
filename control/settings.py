"""Every setting of the server side, in one place. `docs/settings.md` lists them, kept true by a test."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vlyard.errors import Complaint, InvalidInput

_SCHEMES: Mapping[str, tuple[str, ...]] = {
    "database_url": ("postgresql", "postgres", "postgresql+psycopg"),
    "redis_url": ("redis", "rediss", "unix", "redis+socket"),
}


class Settings(BaseSettings):
    """Read from environment variables named `VLYARD_<FIELD>`; an unset field keeps its default."""

    model_config = SettingsConfigDict(env_prefix="VLYARD_", frozen=True, env_ignore_empty=True)

    database_url: SecretStr = Field(
        SecretStr("postgresql://localhost/vlyard"), description="PostgreSQL 14 or newer, as a libpq URL."
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"), description="Redis 6.2 or newer, or Valkey, as a redis:// URL."
    )
    redis_prefix: str = Field("vlyard:", description="Put before every key in Redis, so that a server can be shared.")

    s3_endpoint: str = Field("http://localhost:8333", description="The S3 server, as API and workers reach it.")
    s3_public_url: str = Field(
        "", description="The S3 server as clients reach it, for presigned URLs; empty: the same as the endpoint."
    )
    s3_access_key: str = Field("", description="The S3 access key id; empty: boto3's own lookup.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="The S3 secret key.")
    s3_bucket: str = Field("vlyard", description="The bucket of all artefacts; made at start where it is missing.")
    s3_region: str = Field("us-east-1", description="The S3 region.")
    presign_seconds: int = Field(900, gt=0, description="How long a presigned URL works.")

    sweep_seconds: float = Field(60, gt=0, description="How often a dispatcher removes what nobody needs any more.")
    upload_part_bytes: int = Field(
        64 * 2**20, ge=5 * 2**20, le=5 * 2**30, description="A file of more bytes is uploaded in parts of so many."
    )
    upload_keep_seconds: float = Field(
        86400, gt=0, description="An upload that its client has not asked about for this long is removed."
    )
    leftover_keep_seconds: float = Field(
        3600, gt=0, description="What an attempt that did not succeed left in the store is removed this long after it."
    )
    latecomer_seconds: float = Field(
        8 * 86400,
        gt=0,
        description="What a lost attempt left is looked for once more this long after it, for workers that went on "
        "writing; longer than any kind of job may run.",
    )
    checkpoint_keep_seconds: float = Field(
        3600, gt=0, description="The checkpoints of a job are removed this long after its end."
    )

    api_host: str = Field("127.0.0.1", description="The address that the API listens on.")
    api_port: int = Field(8080, ge=0, le=65535, description="The port that the API listens on.")
    api_connections: int = Field(16, ge=1, description="Database connections that one API process keeps.")

    flower_host: str = Field("127.0.0.1", description="The address that Flower listens on.")
    flower_port: int = Field(5555, ge=0, le=65535, description="The port that Flower listens on.")
    flower_user: str = Field("vlyard", description="Flower's user.")
    flower_password: SecretStr = Field(SecretStr(""), description="Flower's password; Flower refuses to start without.")

    lease_seconds: float = Field(
        30, gt=0, description="How long a claimed attempt lives without a sign of life from its worker."
    )
    ring_after_seconds: float = Field(
        5, gt=0, description="A dispatched job that nobody claimed for this long is rung again."
    )
    poll_seconds: float = Field(0.2, gt=0, description="How often the dispatcher looks by itself, wake-ups apart.")
    retry_base_seconds: float = Field(
        2, ge=0, description="The first retry waits up to this long, each later twice it."
    )
    retry_cap_seconds: float = Field(600, ge=0, description="No retry waits longer than this.")
    shutdown_grace_seconds: float = Field(
        20, ge=0, description="How long what runs may go on once its worker was told to stop; then it is given back."
    )
    stop_grace_seconds: float = Field(10, ge=0, description="How long a stopped child has before it is killed.")

    webhook_hosts: str = Field(
        "",
        description="Hosts, with commas between them, that webhooks may reach unencrypted and at private addresses.",
    )
    webhook_timeout_seconds: float = Field(15, gt=0, description="How long a webhook's receiver has for its answer.")

    delivery_keep_seconds: float = Field(
        2592000, gt=0, description="A message to a webhook that arrived or was given up is forgotten after this long."
    )

    idempotency_keep_seconds: float = Field(
        86400, gt=0, description="An Idempotency-Key is remembered at least this long."
    )

    batch_tokens: int = Field(
        32_768,
        ge=1,
        description="Questions are answered in batches of so many tokens at most: rows, times the longest question "
        "with its pictures and the longest answer that is expected. While they wait, its pictures take 55 KB a token.",
    )
    batch_rows: int = Field(32, ge=1, description="How many questions a batch has at most.")
    batch_wait_seconds: float = Field(
        0.01,
        ge=0,
        le=10,
        description="How long an idle model waits for company before it begins with a question, or after the last that "
        "came while more are on their way.",
    )
    feature_bytes: int = Field(
        2**28, ge=0, description="Memory for what each model saw in the latest pictures, to look once at each."
    )
    models_dir: Path | None = Field(None, description="The folder whose sub-folders are the models that jobs can name.")
    models_bytes: int = Field(
        0,
        ge=0,
        description="Memory that the models of one worker may take together, `VLYARD_FEATURE_BYTES` of each counted "
        "in; 0: 85 % of its GPUs', or half of the machine's where it has none.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Where models of a hub and of artefacts are kept, for all workers of the machine; default: "
        "`vlyard` in the user's cache folder.",
    )
    cache_bytes: int = Field(
        200 * 2**30, ge=0, description="Disk that they may take; the longest unused go first, and what is in use stays."
    )
    hub: Literal["huggingface", "modelscope"] = Field(
        "huggingface", description="Where models named `hub:<owner>/<name>` are: huggingface or modelscope."
    )
    hub_endpoint: str = Field("", description="A mirror of the hub, as a URL; empty: the hub itself.")
    hub_token: SecretStr = Field(
        SecretStr(""), description="The hub's token, for private and gated models; every team may then use these."
    )
    other_hub_endpoint: str = Field(
        "",
        description="A mirror of the hub that `VLYARD_HUB` is not, for imports that name it; empty: that hub itself.",
    )
    other_hub_token: SecretStr = Field(
        SecretStr(""), description="The token of the hub that `VLYARD_HUB` is not; every team may then use it."
    )
    push_token: SecretStr = Field(
        SecretStr(""),
        description="A token of Hugging Face that may write, for exports that go there; every team may then use it.",
    )
    modelscope_push_token: SecretStr = Field(
        SecretStr(""),
        description="A token of ModelScope that may write, for exports that go there; every team may then use it.",
    )
    export_dir: Path | None = Field(
        None, description="Where exports that name a folder get one, on the worker's machine."
    )
    gguf_converter: Path | None = Field(
        None, description="llama.cpp's `convert_hf_to_gguf.py`, for exports in the format gguf."
    )
    cpu_threads: int = Field(1, ge=1, description="Threads that a model's worker computes with where it has no GPU.")
    work_dir: Path | None = Field(None, description="Where attempts keep their scratch folders; default: the system's.")

    @field_validator("database_url", "redis_url")
    @classmethod
    def _is_a_url(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        known = _SCHEMES[str(info.field_name)]
        if not url.get_secret_value().startswith(tuple(f"{scheme}://" for scheme in known)):
            raise ValueError(f"it is no {known[0]}:// URL")
        return url


def read_settings() -> Settings:
    """The settings as the environment has them. Raises `InvalidInput` that names each variable that does not fit."""
    try:
        return Settings()
    except ValidationError as error:
        complaints = [_complaint(str(one["loc"][0]), one["input"], one["msg"]) for one in error.errors()]
        raise InvalidInput("The settings do not fit", complaints) from None


def _complaint(name: str, given: object, message: str) -> Complaint:
    default = Settings.model_fields[name].default
    secret = isinstance(default, SecretStr)  # neither is shown: passwords are in URLs
    value = "its value" if secret else repr(given)
    usual = "" if secret or default in (None, "") else f", {default}"
    what = f"{value} does not fit: {message.removeprefix('Value error, ')}"
    return Complaint(f"VLYARD_{name.upper()}", what, f"correct it, or unset it for its default{usual}")


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once from its environment; raises as `read_settings` does."""
    return read_settings()
