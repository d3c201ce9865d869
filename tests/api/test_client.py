"""The client's calls against the real API, those that the VLyard in memory does not serve among them."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from control.settings import Settings
from tests.api.conftest import Join
from tests.api.serving import serving
from tests.receiver import Receiver
from vlyard import Client, NoopSpec
from vlyard.errors import Conflict, Forbidden, NotFound, Unauthenticated
from vlyard.jobs.why import Reason
from vlyard.teams import Role
from vlyard.webhooks import EventType


@pytest.fixture(scope="module")
def url(api_settings: Settings) -> Iterator[str]:
    with serving(api_settings) as url:
        yield url


@pytest.fixture
def client(url: str, join: Join) -> Iterator[Client]:
    with Client(url, join().key) as client:
        yield client


def test_a_team_gets_a_key_uses_it_and_loses_it(client: Client, url: str) -> None:
    team = client.create_team(f"team-{uuid4().hex}")
    assert team in client.teams()
    made = client.create_key(team.name, Role.MEMBER)
    with Client(url, made.key) as member:
        assert (member.me().team, member.me().role, member.me().prefix) == (team, Role.MEMBER, made.prefix)
        for call in (member.teams, lambda: member.create_pool("mine"), lambda: member.keys(team.id)):
            with pytest.raises(Forbidden):
                call()
        assert [key.prefix for key in client.keys(team.id)] == [made.prefix]
        client.revoke_key(made.key or "")
        with pytest.raises(Unauthenticated):
            member.me()
    with pytest.raises(NotFound):
        client.revoke_key(made.prefix)
    with pytest.raises(Conflict):
        client.create_team(team.name)


def test_a_pool_is_made_and_a_job_says_why_it_waits_there(client: Client) -> None:
    name = f"p{uuid4().hex}"
    client.create_pool(name)
    job = client.submit(NoopSpec(), pool=name, expires_in=3600, max_runtime=60)
    assert (job.max_runtime, job.expires_at is not None) == (60, True)
    why = client.why(job.id)
    assert (why.reason, why.position, why.pool) == (Reason.NO_WORKER, 1, name)
    [load] = next(pool.load for pool in client.pools() if pool.name == name)
    assert (load.kind, load.queued, load.queued_of_all) == ("noop", 1, 1)
    assert [listed.id for listed in client.jobs(pool=name)] == [job.id]
    with pytest.raises(NotFound):
        client.why(UUID(int=7))


def test_a_webhook_is_made_tried_given_another_secret_and_deleted(client: Client) -> None:
    with Receiver().open() as receiver:
        made = client.create_webhook(receiver.url, ["job.cancelled"])
        assert client.test_webhook(made.id).delivered
        new = client.rotate_webhook_secret(made.id)
        assert (new.secret or "").startswith("whsec_")
        assert new.secret != made.secret
        assert client.test_webhook(made.id).delivered
        assert receiver.received[1].verified(new.secret or "")["type"] == "ping"
    assert client.webhooks() == (client.webhook(made.id),)
    assert client.webhook(made.id).events == (EventType.JOB_CANCELLED,)
    assert client.enable_webhook(made.id).disabled_at is None
    assert list(client.deliveries(made.id)) == []
    client.cancel(client.submit(NoopSpec()).id)
    [message] = client.deliveries(made.id)
    assert (client.redeliver(message.id).id, message.type) == (message.id, EventType.JOB_CANCELLED)
    client.delete_webhook(made.id)
    with pytest.raises(NotFound):
        client.webhook(made.id)
    assert set(client.create_webhook("http://127.0.0.1:1/").events) == set(EventType)
