"""Sending an export to a hub. The token reaches the hub alone: no log, no error, no argument and no address has it."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from control.settings import Settings
from vlyard.errors import Complaint, InvalidInput, Unavailable
from workers import modelscope_uploading, uploading
from workers.qwen.programs import last_words, run_program

HubName = Literal["huggingface", "modelscope"]


@dataclass(frozen=True)
class _Way:
    """How files get to a hub."""

    program: str
    token: Callable[[Settings], SecretStr]
    setting: str  # that holds the token
    variable: str  # in which the program finds it
    environment: Mapping[str, str] = field(default_factory=dict)


_WAYS: Mapping[HubName, _Way] = {
    "huggingface": _Way(
        program=uploading.__file__,
        token=lambda settings: settings.push_token,
        setting="VLYARD_PUSH_TOKEN",
        variable="HF_TOKEN",
        environment={
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # mirrors speak the older protocol alone
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
    ),
    "modelscope": _Way(
        program=modelscope_uploading.__file__,
        token=lambda settings: settings.modelscope_push_token,
        setting="VLYARD_MODELSCOPE_PUSH_TOKEN",
        variable="MODELSCOPE_API_TOKEN",
    ),
}


def require_hub(hub: HubName, settings: Settings) -> None:
    """Raise `InvalidInput` where this worker cannot send anything to that hub."""
    if not _WAYS[hub].token(settings).get_secret_value():
        what = f"the workers have no token for {hub} with which they may write"
        raise _refused("/spec/push_to", what, f"ask the operator to set {_WAYS[hub].setting}")


def push(
    folder: Path, hub: HubName, repository: str, settings: Settings, *, private: bool, check: Callable[[], None]
) -> str:
    """Send all files of a folder as one commit, into a repository that is made where there is none.

    Returns `hub:<owner>/<name>@<commit>`. `check` is called twice a second, and what it raises stops the sending. Files
    beside the folder are written meanwhile. Raises `InvalidInput` where the hub does not want it, and `Unavailable`.
    """
    require_hub(hub, settings)
    way = _WAYS[hub]
    token = way.token(settings)
    note, said = (folder.with_name(f"{folder.name}.push.{end}") for end in ("json", "txt"))
    asked = {"endpoint": _endpoint(hub, settings), "repository": repository, "private": private, "folder": str(folder)}
    note.write_text(json.dumps(asked), encoding="utf-8")
    environment = {**os.environ, way.variable: token.get_secret_value(), **way.environment}
    code = run_program([sys.executable, "-P", way.program, str(note)], said, check, environment)
    if code:
        raise Unavailable(f"sending to {hub} failed: {_without(token, last_words(said))}")
    came = json.loads(note.read_text(encoding="utf-8"))
    if "revision" in came:
        return f"hub:{repository}@{came['revision']}"
    words = _without(token, came["words"])
    if came["failed"] == "hub":
        raise Unavailable(f"{hub} does not take the export: {words}")
    if came["failed"] == "token":
        what = f"{hub} refuses the workers' token for {repository} ({words})"
        raise _refused("/spec/repository", what, f"choose another owner, or ask the operator to look at {way.setting}")
    raise _refused("/spec/repository", f"{hub} refuses it ({words})", "choose another repository")


def _endpoint(hub: HubName, settings: Settings) -> str:
    """The operator's mirror of that hub where there is one."""
    return settings.hub_endpoint if settings.hub == hub else settings.other_hub_endpoint


def _without(token: SecretStr, words: str) -> str:
    """Words of another program, in case that they quote what they were given."""
    return words.replace(token.get_secret_value(), "***")


def _refused(where: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput("The export cannot be sent there", [Complaint(where, what, fix)])
