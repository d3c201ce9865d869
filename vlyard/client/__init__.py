"""The Python client: `calls` is what an application uses; the other files are what one call is made of."""

from vlyard.client.calls import Client

__all__ = ["Client"]
