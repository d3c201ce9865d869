"""What the API says of jobs and artefacts, and what it is asked. The client reads the same classes."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from vlyard.errors import Blame, Complaint
from vlyard.files import ArtefactKind
from vlyard.jobs.kinds import KINDS, Device
from vlyard.jobs.spec import NAME, Spec, storable
from vlyard.jobs.state import State
from vlyard.trees import LARGEST_FILE, MOST_FILES, TreeFile

if TYPE_CHECKING:
    AnySpec = Spec
else:  # the union of the table's rows, told apart by `kind`
    AnySpec = Annotated[Union[tuple(kind.spec for kind in KINDS.values())], Field(discriminator="kind")]  # noqa: UP007

_LONGEST_FILE_NAME = 255  # bytes, in the file systems where workers will write it
LARGEST_BATCH = 1_000
POOL_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"


_YEAR = 366 * 86_400.0  # seconds
_LONGEST_WAIT_YEARS = 10
_LabelKey = Annotated[str, Field(pattern=r"^[^:\x00]{1,64}$")]  # a filter is written key:value
_LabelValue = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=512)]

Labels = Annotated[dict[_LabelKey, _LabelValue], Field(max_length=16, description="Names and values of your own.")]
Priority = Annotated[int, Field(ge=-100, le=100, description="Higher goes first among your team's jobs.")]


def _not_far(moment: datetime) -> datetime:
    """The moment, where it is one in every time zone that a database or a client may show it in."""
    try:
        away = abs(moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except OverflowError:
        away = math.inf
    if away > _LONGEST_WAIT_YEARS * _YEAR:
        raise ValueError(f"it is more than {_LONGEST_WAIT_YEARS} years away")
    return moment


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Submission(BaseModel):
    """A job to be: what to do, where, and how urgently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: AnySpec
    pool: str = Field("default", pattern=POOL_PATTERN, description="The pool of workers that shall run it.")
    priority: Priority = 0
    labels: Labels = {}
    expires_at: Annotated[AwareDatetime, AfterValidator(_not_far)] | None = Field(
        None, description="Fail the job where it was not started before then; ten years from now at most."
    )
    expires_in: float | None = Field(None, gt=0, le=_YEAR, description="The same, in seconds from now.")
    max_runtime: float | None = Field(
        None, gt=0, description="Seconds that an attempt may run, where that is less than its kind's time limit."
    )

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_at is not None and self.expires_in is not None:
            raise ValueError("give either expires_at or expires_in")
        return self


class Entry(Submission):
    """One job of a batch, with a name by which the others may ask for its outputs."""

    name: str | None = Field(
        None, pattern=f"^{NAME}$", description="So that other entries can say `ref:<name>/<output>`; each at most once."
    )


class Batch(BaseModel):
    """Jobs that are accepted together or not at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: tuple[Entry, ...] = Field(min_length=1, max_length=LARGEST_BATCH)


class Changes(BaseModel):
    """What a clone does differently. What is left out stays as it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: Annotated[dict[str, Any], AfterValidator(storable)] = Field(
        {}, description="A merge patch (RFC 7396) of the specification; null removes a field."
    )
    pool: str | None = Field(None, pattern=POOL_PATTERN)
    priority: Priority | None = None
    labels: Labels | None = Field(None, description="Instead of the other's labels.")


class NewPriority(BaseModel):
    """A waiting job's new place in the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priority: Priority


class Failure(_View):
    """Why a job, or one attempt of it, failed."""

    code: str = Field(description="What programs compare.")
    message: str = Field(description="What people read.")
    blame: Blame
    complaints: tuple[Complaint, ...] = Field((), description="Where exactly, and what to do about it.")


class Attempt(_View):
    """One try at a job by one worker."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: Literal["succeeded", "failed", "cancelled", "lost", "released"] | None = None
    error: Failure | None = None


def _is_none(value: object) -> bool:
    return value is None


class Progress(_View):
    """How far a running job is."""

    fraction: float | None = Field(None, ge=0, le=1)
    text: str = ""
    rate: float | None = Field(
        None, ge=0, exclude_if=_is_none, description="How much it does in a second, where its handler counts."
    )
    unit: str | None = Field(None, exclude_if=_is_none, description="What the rate counts, such as samples.")
    eta_seconds: float | None = Field(
        None, ge=0, exclude_if=_is_none, description="Seconds to its end, where the last minute tells."
    )


class Job(_View):
    """A job as the API shows it."""

    id: UUID
    kind: str
    state: State
    pool: str
    device: Device
    priority: int
    spec: SerializeAsAny[Spec] | dict[str, Any]
    result: dict[str, Any] | None = None
    error: Failure | None = None
    progress: Progress | None = None
    attempt: int = Field(description="The number of the current or last attempt; 0 before the first.")
    attempts: tuple[Attempt, ...] = ()
    cancel_requested: bool = False
    labels: dict[str, str] = {}
    part_of: UUID | None = Field(None, description="The job that waits for this one's share of its work.")
    cloned_from: UUID | None = Field(None, description="The job that this one repeats, as it was or changed.")
    expires_at: datetime | None = None
    max_runtime: float | None = Field(None, description="Seconds, where that was asked for.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Accepted(_View):
    """The jobs of a batch, in the order of its entries."""

    data: tuple[Job, ...]


class Page(_View):
    """A slice of a list. `next_cursor` fetches what comes after it, and is null at the end."""

    data: tuple[Job, ...]
    next_cursor: str | None = None


def _file_name(name: str) -> str:
    if name in {".", ".."} or len(name.encode()) > _LONGEST_FILE_NAME:
        raise ValueError("no file can have this name: send a shorter or plainer one")
    return name


ArtefactName = Annotated[
    str,
    AfterValidator(_file_name),
    Field(pattern=r"^[^/\\\x00-\x1f]{1,255}$", description="Its name as a file or folder, without the folders above."),
]
Resume = Annotated[
    bool, Field(description="Go on with your team's pending upload of the very same, where there is one.")
]


class NewArtefact(BaseModel):
    """A file about to be uploaded. The upload is refused where its bytes differ from what is said here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ArtefactName
    bytes: int = Field(ge=0, le=LARGEST_FILE, description="Its exact length.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="The SHA-256 of its content, in hexadecimal.")
    media_type: str = Field("application/octet-stream", pattern=r"^[A-Za-z0-9.+_-]+/[A-Za-z0-9.+_-]+$", max_length=127)
    resume: Resume = False


class NewTree(BaseModel):
    """A directory about to be uploaded, with all its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ArtefactName
    files: tuple[TreeFile, ...] = Field(min_length=1, max_length=MOST_FILES)
    resume: Resume = False


class Upload(_View):
    """Where to send an artefact's bytes: one PUT with exactly these headers, then `complete`."""

    url: str
    method: Literal["PUT"] = "PUT"
    headers: dict[str, str]
    expires_in: int = Field(description="Seconds until the URL stops working.")


class Parts(_View):
    """How a large file is divided: all parts are of one length, but for the last one."""

    part_bytes: int
    count: int


class Piece(_View):
    """One PUT of an upload: these bytes of the file, with exactly these headers."""

    path: str | None = Field(None, description="The file's path in its tree; null where the artefact is a file.")
    part: int | None = Field(None, description="The part's number, from 1; null where the file travels whole.")
    offset: int = Field(description="Where in the file the bytes begin.")
    bytes: int
    url: str
    method: Literal["PUT"] = "PUT"
    headers: dict[str, str]


class Missing(_View):
    """What an upload still lacks: the first pieces of it, with fresh links, and how much it is altogether."""

    data: tuple[Piece, ...]
    pieces: int = Field(description="How many are missing, those of `data` among them.")
    bytes: int = Field(description="How many bytes these pieces have together.")
    expires_in: int = Field(description="Seconds until the links stop working.")


class Artefact(_View):
    """A file or a directory that a team uploaded or a job made."""

    id: UUID
    kind: ArtefactKind = Field(ArtefactKind.FILE, description="`file`, or `tree`: a directory.")
    name: str
    media_type: str
    bytes: int = Field(description="Of a tree: of all its files together.")
    sha256: str = Field(description="Of a tree: of its manifest, so that equal directories have the same.")
    state: Literal["pending", "ready"]
    job: UUID | None = None
    created_at: datetime
    download_url: str | None = Field(None, description="A short-lived link to a file's content, once it is ready.")
    manifest_url: str | None = Field(None, description="A short-lived link to a tree's manifest, once it is ready.")
    upload: Upload | None = Field(None, description="Where a file goes that travels whole; in the first answer only.")
    parts: Parts | None = Field(None, description="How a larger file is divided; in the first answer only.")


class ManifestEntry(TreeFile):
    """A file of a tree, on request with a link to its content."""

    url: str | None = Field(None, description="A short-lived link, where that was asked for.")


class ManifestPage(_View):
    """Some files of a tree, by path. `next_after` asks for those after them, and is null at the end."""

    data: tuple[ManifestEntry, ...]
    next_after: int | None = None
