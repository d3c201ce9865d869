"""API keys: shown once, kept as a digest, refused in one way."""

import hashlib

import pytest
from sqlalchemy import func, select, text, update

from control.accounts import Caller, authenticate, issue_key
from db.models import ApiKey, Team
from tests.system import System
from vlyard.errors import Unauthenticated
from vlyard.teams import Role

UNKNOWN = f"vly_{'0' * 12}_{'0' * 64}"


def test_a_key_names_its_team_and_role(vlyard: System) -> None:
    with vlyard.database.transaction() as session:
        member, admin = issue_key(session, "vision", Role.MEMBER), issue_key(session, "vision", Role.ADMIN)
        team = session.scalars(select(Team.id).where(Team.name == "vision")).one()
        assert authenticate(session, member) == Caller(team, Role.MEMBER)
        assert authenticate(session, admin) == Caller(team, Role.ADMIN)


def test_two_keys_are_never_alike_and_carry_256_bits(vlyard: System) -> None:
    with vlyard.database.transaction() as session:
        keys = [issue_key(session, "vision", Role.MEMBER) for _ in range(20)]
    secrets = {key.split("_")[2] for key in keys}
    assert len(secrets) == 20
    assert {len(secret) * 4 for secret in secrets} == {256}


def test_the_database_holds_a_digest_and_the_visible_prefix_and_not_the_key(vlyard: System) -> None:
    key = vlyard.key()
    with vlyard.database.transaction() as session:
        row = session.scalars(select(ApiKey)).one()
        dump = session.scalar(select(func.string_agg(text("api_keys::text"), "\n")).select_from(ApiKey))
    assert row.sha256 == hashlib.sha256(key.encode()).digest()
    assert key.startswith(f"vly_{row.prefix}_")
    assert dump is not None
    assert row.prefix in dump
    assert key.split("_")[2] not in dump


def test_a_revoked_key_is_refused_and_its_teams_other_keys_are_not(vlyard: System) -> None:
    revoked, kept = vlyard.key(), vlyard.key()
    with vlyard.database.transaction() as session:
        prefix = revoked.split("_")[1]
        session.execute(update(ApiKey).where(ApiKey.prefix == prefix).values(revoked_at=func.now()))
        assert authenticate(session, kept)
        with pytest.raises(Unauthenticated):
            authenticate(session, revoked)


def test_a_key_that_is_not_exactly_ours_is_refused_with_always_the_same_words(vlyard: System) -> None:
    key = vlyard.key()
    _, prefix, secret = key.split("_")
    wrong = [
        UNKNOWN, "", "vly", "vly_", "vly__", f"vly_{prefix}", f"vly_{prefix}_", f"sk_{prefix}_{secret}",
        f"vly_{prefix}_{'0' * 64}", f"vly_{'0' * 12}_{secret}", key.upper(), key + "0", key + "\n", key[:-1],
        f"{key}_{secret}", f"vly_{prefix}\0_{secret}", "vly_\0_\0", f"vly_'; DROP TABLE teams; --_{secret}", "ключ",
    ]  # fmt: skip
    with vlyard.database.transaction() as session:
        assert authenticate(session, key)
        for attempt in wrong:
            with pytest.raises(Unauthenticated) as refusal:
                authenticate(session, attempt)
            assert str(refusal.value) == str(Unauthenticated())
