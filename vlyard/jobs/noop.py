"""A job that does nothing, for as long as asked: for bench, doctor and faults."""

from typing import Literal

from pydantic import Field

from vlyard.jobs.spec import Result, Spec


class NoopSpec(Spec):
    kind: Literal["noop"] = "noop"
    seconds: float = Field(0, ge=0, le=3600, description="How long to do nothing, in seconds.")
    fail: str = Field("", description="If set, the attempt fails as the user's fault with this message.")
    fail_transiently: int = Field(0, ge=0, description="How many first attempts fail with `unavailable`.")
    crash: bool = Field(False, description="If set, every attempt kills the process of the worker that runs it.")
    echo: str = Field("", max_length=10_000, description="Text that comes back in the result.")


class NoopResult(Result):
    echo: str = ""
    attempt: int = Field(description="The number of the attempt that succeeded, from 1.")
