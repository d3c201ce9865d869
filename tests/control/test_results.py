"""A result names only artefacts that there are."""

from typing import Any
from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7

from control import lifecycle
from control.inputs import checked_inputs, inputs_of
from control.lifecycle import Ending
from control.rules import rules_from
from control.settings import Settings
from db import artefacts
from db.leases import Claimed
from db.models import Outcome
from tests.db import rows
from tests.system import System
from vlyard.errors import InvalidInput
from vlyard.files import ArtefactKind
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import State

RULES = rules_from(Settings())


def file(**more: Any) -> dict[str, Any]:
    """A file that an attempt has stored."""
    facts = {"name": "answer.png", "media_type": "image/png", "bytes": 3, "sha256": "0" * 64, **more}
    return {"id": uuid7(), "key": f"jobs/{uuid4()}/answer.png", **facts}


def naming(made: dict[str, Any]) -> dict[str, Any]:
    """A result that names an artefact."""
    return {"artefacts": {"dataset": str(made["id"])}}


def test_a_result_that_names_an_artefact_that_was_not_stored_is_no_success(vlyard: System) -> None:
    with vlyard.database.transaction() as session:
        owner, stranger, worker = rows.team(session), rows.team(session), rows.worker(session)
        honest, empty, foreign, borrowed = (rows.running(session, owner, worker) for _ in range(4))
        theirs = rows.running(session, stranger, worker)
        # given an artefact of another team, and one that the team has already
        made, other, kept = file(), file(), file()
        for team, pair, there in ((stranger, theirs, other), (owner, honest, kept)):
            artefacts.insert_ready(session, [{**there, "team_id": team, "job_id": pair[0], "attempt": 1}])
        # when attempts end whose results name what they made, what nobody made, another team's, and the team's own
        endings = [
            Ending(honest, Outcome.SUCCEEDED, result=naming(made), artefacts=[made]),
            Ending(empty, Outcome.SUCCEEDED, result=naming(file())),
            Ending(foreign, Outcome.SUCCEEDED, result=naming(other)),
            Ending(borrowed, Outcome.SUCCEEDED, result=naming(kept)),
        ]
        states = lifecycle.finish(session, worker, endings, RULES)
    # then the second and the third have failed, and say what was missing
    assert states == {honest: State.SUCCEEDED, empty: State.QUEUED, foreign: State.QUEUED, borrowed: State.SUCCEEDED}
    job, [attempt] = vlyard.job(empty[0]), vlyard.attempts(empty[0])
    assert (job.result, attempt.outcome) == (None, Outcome.FAILED)
    assert job.error is not None
    assert "never stored: dataset (" in job.error["message"]


def test_an_attempt_whose_result_names_nothing_that_is_there_stores_no_artefact_of_it(vlyard: System) -> None:
    with vlyard.database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair, made, log = rows.running(session, owner, worker), file(), file(name="log.txt")
        ending = Ending(pair, Outcome.SUCCEEDED, result=naming(file()), artefacts=[made], log=log)
        assert lifecycle.finish(session, worker, [ending], RULES) == {pair: State.QUEUED}
        assert [row.id for row in artefacts.made_by(session, owner, pair[0])] == [log["id"]]


@pytest.mark.parametrize(("kind", "field"), [("conversion", "source"), ("inference", "image")])
def test_a_job_that_reads_a_file_does_not_begin_with_a_directory_that_another_one_made(
    vlyard: System, kind: str, field: str
) -> None:
    with vlyard.database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session, kinds=["noop", "conversion", "inference"])
        pair, tree = rows.running(session, owner, worker), file(kind=ArtefactKind.TREE)
        lifecycle.finish(session, worker, [Ending(pair, Outcome.SUCCEEDED, artefacts=[tree])], RULES)
        spec = {"kind": kind, field: str(tree["id"]), **({"prompt": "What?"} if kind == "inference" else {})}
        reader = Claimed(uuid7(), 1, owner, kind, spec, None)
        wanted, found = KINDS[kind].spec.model_validate(spec), inputs_of(session, [reader])
        if kind == "conversion":
            assert [each.id for each in checked_inputs(reader, wanted, found)] == [tree["id"]]
        else:
            with pytest.raises(InvalidInput, match="is a directory, and the job reads a file"):
                checked_inputs(reader, wanted, found)
