"""FastAPI and SQLAlchemy Core with nothing of ours: one endpoint, one INSERT of one row. The baseline of `bench.post`.

It is served as the API is: one uvicorn process with the same settings and as many database connections.
"""

import sys
from typing import Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Column, DateTime, MetaData, Table, Uuid, create_engine, func, insert
from sqlalchemy.dialects.postgresql import JSONB
from uuid_utils.compat import uuid7

from db.session import engine_url

ROWS = Table(
    "bench_rows",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("body", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)


def make_app(database_url: str, connections: int) -> FastAPI:
    engine = create_engine(engine_url(database_url), pool_size=connections, max_overflow=0)
    ROWS.create(engine)
    app = FastAPI()

    @app.post("/rows", status_code=201)
    def add_row(body: dict[str, Any]) -> dict[str, UUID]:
        id = uuid7()
        with engine.begin() as connection:
            connection.execute(insert(ROWS), {"id": id, "body": body})
        return {"id": id}

    return app


def main() -> None:
    database_url, connections, host, port = sys.argv[1:]
    app = make_app(database_url, int(connections))
    uvicorn.run(app, host=host, port=int(port), log_level="warning", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
