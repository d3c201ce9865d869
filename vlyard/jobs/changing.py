"""A specification with changes, as a clone has it. Pure."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.ours import as_asked
from vlyard.jobs.spec import Spec
from vlyard.problems import complaints_of


def changed(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> Spec:
    """The specification, as its JSON has it, with a merge patch applied; raises `InvalidInput` where it is none.

    What VLyard has set in it stays behind: it belongs to that job's own shares, and is set anew.
    """
    source = KINDS.get(str(spec.get("kind")))
    wanted = _merged(as_asked(source.spec, spec) if source else spec, patch)
    kind = KINDS.get(str(wanted.get("kind")))
    if kind is None:
        complaint = Complaint("/spec/kind", f"there is no kind {wanted.get('kind')!r}", f"kinds are {', '.join(KINDS)}")
        raise InvalidInput(complaints=[complaint])
    try:
        return kind.spec.model_validate(wanted)
    except ValidationError as error:
        faults = ({**fault, "loc": ("body", "spec", kind.name, *fault["loc"])} for fault in error.errors())
        raise InvalidInput("the changed specification is not valid", complaints_of(faults)) from error


def _merged(target: Any, patch: Any) -> Any:
    """The JSON value with the merge patch applied, as RFC 7396 defines it: null removes a member."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result
