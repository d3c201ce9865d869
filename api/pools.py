"""/v1/pools: the sets of workers that teams share, and what waits and runs there."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from sqlalchemy.orm import Session

from api.desk import AtDesk, IdempotencyKey
from control import administration
from control.accounts import Caller
from db import accounts, queue, workers
from db.models import Pool
from vlyard import pools as view

router = APIRouter(prefix="/v1/pools", tags=["pools"])


@router.get("", summary="List pools, their workers and what waits there")
async def list_pools(desk: AtDesk) -> view.Pools:
    """All pools by name: whoever submits jobs sees where they can run, and how long the lines are."""
    fresh_seconds = desk.house.settings.lease_seconds

    def read(session: Session, caller: Caller) -> view.Pools:
        staff, load = workers.at_work(session, fresh_seconds), queue.load(session, caller.team)
        return view.Pools(data=tuple(_pool(pool, staff, load) for pool in accounts.pools(session)))

    return await desk.run(read)


@router.post("", status_code=201, summary="Make a pool")
async def make_pool(
    new: Annotated[view.NewPool, Body(examples=[{"name": "night"}])],
    desk: AtDesk,
    idempotency_key: IdempotencyKey = None,
) -> view.Pool:
    """Make a pool, for administrators. A worker that names a pool makes it too; jobs can be sent there before that."""

    def make(session: Session, caller: Caller) -> view.Pool:
        return _pool(administration.make_pool(session, caller, new, idempotency_key), (), ())

    return await desk.run(make)


def _pool(row: Pool, staff: Sequence[workers.AtWork], load: Sequence[queue.Load]) -> view.Pool:
    return view.Pool(
        name=row.name,
        created_at=row.created_at,
        workers=tuple(_worker(each) for each in staff if each.pool == row.name),
        load=tuple(_load(each) for each in load if each.pool == row.name),
    )


def _load(row: queue.Load) -> view.Load:
    return view.Load(
        kind=row.kind,
        queued=row.queued,
        running=row.running,
        queued_of_all=row.queued_of_all,
        running_of_all=row.running_of_all,
    )


def _worker(row: workers.AtWork) -> view.Worker:
    return view.Worker(
        id=row.id,
        name=row.name,
        device=row.device,
        kinds=tuple(row.kinds),
        slots=row.slots,
        running=row.running,
        draining=row.draining,
        silent_seconds=row.silent_seconds,
        started_at=row.started_at,
        gpus=tuple(row.gpus),
        self_test=row.self_test,
    )
