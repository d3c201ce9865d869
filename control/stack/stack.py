"""A running stack: the servers that are not the operator's own, and the processes that use them.

`up`, `demo` and the tests all stand on this.
"""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from control.stack.folder import DataFolder, taken
from control.stack.postgres import POSTGRES
from control.stack.seaweedfs import SEAWEEDFS
from control.stack.servers import Launch, Program, Server
from control.stack.supervisor import Supervisor
from control.stack.valkey import VALKEY

_LOG = logging.getLogger(__name__)
# The slowest first: PostgreSQL's data is made while the others start.
SERVERS = (SEAWEEDFS, VALKEY, POSTGRES)


class Stack:
    """The servers of a data folder, running as long as the context lasts.

    A server whose setting is in `environment` (default: this process's own) is the operator's and is left alone.
    `settings` are the variables by which everything is reached, the operator's own among them; give them to the
    processes that you start. `launches` has the servers that were started, by name.
    """

    folder: DataFolder
    supervisor: Supervisor
    settings: Mapping[str, str]
    launches: dict[str, Launch]

    def __init__(
        self,
        path: Path,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _LOG.info,
    ) -> None:
        self._path = path
        self._environment = dict(os.environ if environment is None else environment)
        self._say = say
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        """Take the folder and start the servers; raises `Conflict`, `MissingServer` or `Unavailable`."""
        programs = self._programs()
        self.launches = {}
        with ExitStack() as exits:
            self.folder = exits.enter_context(taken(self._path, self._say))
            logs = self.folder.path / "logs"
            self.supervisor = exits.enter_context(Supervisor(logs, self._say, inherit=(self.folder.lock.fileno(),)))
            self._start(programs)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _programs(self) -> dict[Server, Program]:
        return {
            server: server.find(self._environment) for server in SERVERS if not self._environment.get(server.setting)
        }

    def _start(self, programs: Mapping[Server, Program]) -> None:
        settings = {name: value for name, value in self._environment.items() if name.startswith("VLYARD_")}
        for server, program in programs.items():
            self._say(f"{server.name} {program}")
            launch = server.launch(program, self.folder)
            self.launches[server.name] = launch
            self.supervisor.launch(launch.process)
            settings |= launch.settings
        for name in self.launches:
            self.supervisor.await_ready(name)
        self.settings = settings
