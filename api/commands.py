"""`vlyard api`."""

from control.settings import load_settings


def api() -> None:
    """Run the HTTP API."""
    from api.app import serve  # here, because every `vlyard` command reads this file
    from control.logs import configure

    configure()
    serve(load_settings())
