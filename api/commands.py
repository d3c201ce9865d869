"""`vlyard api`."""

import typer

from api.app import serve
from control.logs import configure
from control.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command()(api)


def api() -> None:
    """Run the HTTP API."""
    configure()
    serve(load_settings())
