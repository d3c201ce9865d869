"""A VLyard for your tests, in the process of the test: `transport` speaks HTTP, the others know jobs and files."""

from vlyard.client.in_process.files import Files
from vlyard.client.in_process.transport import InProcess

__all__ = ["Files", "InProcess"]
