"""One file commits, and one table moves jobs: nothing goes round them."""

import ast
from pathlib import Path

import pytest

from tests.house.tree import PACKAGES, nodes

# Migrating runs on the engine, because alembic wants a connection; its wake-ups never commit anything.
COMMITS = {Path("db/session.py"), Path("db/migrating.py")}
MOVES = Path("db/jobs.py")
BIRTHS = Path("control/submit.py")


def test_only_the_session_commits() -> None:
    found = [f"{path}:{getattr(node, 'lineno', 0)}" for path, node in nodes(*PACKAGES) if commits(node)]

    assert [where for where in found if Path(where.partition(":")[0]) not in COMMITS] == []
    assert {Path(where.partition(":")[0]) for where in found} == COMMITS


def test_only_one_statement_moves_jobs() -> None:
    found = [f"{path}:{getattr(node, 'lineno', 0)}" for path, node in nodes(*PACKAGES) if moves(node)]

    assert [Path(where.partition(":")[0]) for where in found] == [MOVES]


def test_a_job_is_born_in_one_place() -> None:
    births = {"Job", "NewJob"}
    found = [path for path, node in nodes(*PACKAGES) if isinstance(node, ast.Call) and ast.unparse(node.func) in births]

    assert [path for path in found if path.parts[0] in {"db", "control", "workers"}] == [BIRTHS]


@pytest.mark.parametrize("text", ["session.commit()", "with engine.begin() as c: pass", "connection.begin_nested()"])
def test_a_commit_elsewhere_is_found(text: str) -> None:
    assert any(commits(node) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "update(Job).values(state=State.QUEUED)",
        "update(Job).values({Job.state: State.QUEUED})",
        "update(Job).values({'state': 'queued'})",
        "job.state = State.FAILED",
    ],
)
def test_a_move_elsewhere_is_found(text: str) -> None:
    assert any(moves(node) for node in ast.walk(ast.parse(text)))


def commits(node: ast.AST) -> bool:
    """Whether the node begins or commits a transaction."""
    verbs = {"commit", "begin", "begin_nested"}
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in verbs


def moves(node: ast.AST) -> bool:
    """Whether the node gives a job's row another state."""
    match node:
        case ast.Call(func=ast.Attribute(attr="values", value=statement), args=args, keywords=keywords):
            if "WebhookDelivery" in ast.unparse(statement):
                return False  # deliveries have states of their own
            keys = [key for each in args if isinstance(each, ast.Dict) for key in each.keys if key]
            named = {ast.unparse(key).strip("'") for key in keys} | {keyword.arg for keyword in keywords}
            return bool(named & {"state", "Job.state"})
        case ast.Assign(targets=[ast.Attribute(attr="state")], value=value):
            return ast.unparse(value).startswith("State.")
        case _:
            return False
