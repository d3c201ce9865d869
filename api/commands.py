"""`vlyard api`."""

import typer


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command()(api)


def api() -> None:
    """Run the HTTP API."""
    from api.app import serve  # here, because every `vlyard` command reads this file
    from control.logs import configure
    from control.settings import load_settings

    configure()
    serve(load_settings())
