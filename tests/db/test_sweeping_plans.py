"""What the sweeper looks for is found through an index of its own, however much else there is."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db import artefacts, sweeping
from db.session import Database
from tests.db import rows
from tests.db.test_queue_plans import plan

FACTS = {"name": "a", "sha256": "0" * 64, "bytes": 1}
QUESTIONS: dict[str, tuple[str, Callable[[Session], Any]]] = {
    "abandoned": ("ix_artefacts_pending", lambda session: sweeping.lock_abandoned(session, 60, 10)),
    "leftovers": ("ix_attempts_unswept", lambda session: sweeping.lock_leftovers(session, 60, 10)),
    "latecomers": ("ix_attempts_swept_once", lambda session: sweeping.lock_latecomers(session, 60, 10)),
    "named": ("ix_artefacts_job", lambda session: sweeping.named_by(session, [(uuid7(), 1)])),
    "kept": ("pk_checkpoints", lambda session: sweeping.kept_by(session, [(uuid7(), 1)])),
    "outlived": ("pk_checkpoints", lambda session: sweeping.lock_outlived(session, 60, 10)),
    "uploads": ("pk_uploads", lambda session: sweeping.known_uploads(session, [("key", "upload")])),
    "deliveries": ("ix_webhook_deliveries_over", lambda session: sweeping.forget_deliveries(session, 60, 10)),
    "keys": ("pk_idempotency_keys", lambda session: sweeping.forget_keys(session, uuid7(), 10)),
    "resumable": (
        "ix_artefacts_(resumable|pending)",
        lambda session: artefacts.resumable(session, rows.team(session), FACTS),
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_of_the_sweeper_is_answered_from_an_index(database: Database, name: str) -> None:
    index, question = QUESTIONS[name]
    with database.transaction() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        explained = plan(session, question)
    assert re.search(rf"\b{index}\b", explained), explained
    assert "Seq Scan" not in explained
