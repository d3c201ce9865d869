"""The command line: gathers the commands, and turns errors into a line and an exit status.

Commands that need the server's packages are found through the entry-point group `vlyard.commands`: each entry is a
command's name and its function. Where their packages are not installed they are left out, and the help says how to
get them.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points, requires
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperOption

import vlyard
from vlyard.cli import compare, convert, dataset, doctor, jobs, kinds, models, pools, teams, train, watch, webhooks, why
from vlyard.client.connection import KEY_VARIABLE
from vlyard.errors import Blame, Cancelled, JobFailed, NotFound, Unauthenticated, VLyardError, WaitTimeout
from vlyard.extras import installing

GROUP = "vlyard.commands"

# Exit statuses. A bad command line is 2 because typer's own is.
OURS, THEIRS = 1, 2
STATUS: Mapping[type[VLyardError], int] = {JobFailed: 3, Cancelled: 4, WaitTimeout: 5}
_EXITS = (
    "Exit status: 0 done; 1 VLyard's fault, or it cannot be reached; 2 a bad command line or input; 3 the job failed; "
    "4 the job was cancelled; 5 --timeout passed; 130 Ctrl-C."
)

# What to do about errors of which the API cannot know how they came about here.
_ADVICE: Mapping[type[VLyardError], str] = {
    NotFound: f"a key sees what its own team has: look at the id, and at {KEY_VARIABLE}",
    Unauthenticated: f"put a key into {KEY_VARIABLE}; administrators make one with: vlyard keys create TEAM",
}

Command = Callable[..., None]


class OnceEach(TyperCommand):
    """A command that refuses an option of one value that is given twice: the last one would win without a word.

    What is wrong with a value it says without the word that pydantic, by which typer reads values, puts before it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Count the options, then read them."""
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(order).items():
            takes_one = isinstance(option, TyperOption) and not (option.multiple or option.is_flag)
            if takes_one and times > 1 and not ctx.resilient_parsing:
                several = [each.opts[0] for each in self.params if each.multiple and each.name == f"{option.name}s"]
                hint = f" (for several: {several[0]})" if several else ""
                ctx.fail(f"{option.opts[0]} was given {times} times; it takes one{hint}")
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise
        return rest


def main() -> None:
    """Run the command line and exit, with a status that says how it ended; `docs/commands.md` lists them."""
    try:
        build(sys.argv[1:])(prog_name="vlyard")
    except VLyardError as error:
        _explain(error)
        sys.exit(STATUS.get(type(error), THEIRS if error.blame is Blame.USER else OURS))
    except OSError as error:  # a file that the command line named, and that cannot be read or written
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(THEIRS if error.filename else OURS)


def build(words: Sequence[str]) -> typer.Typer:
    """The application that can answer a command line: with every command whose packages are installed.

    Of the server's commands only the one that the first word names is loaded, or all where it names none.
    """
    app = typer.Typer(
        name="vlyard",
        help="From labelled pictures to a tuned, measured, exported Qwen3-VL.",
        no_args_is_help=True,
        epilog=_EXITS,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for part in (kinds, train, compare, jobs, watch, why, convert, dataset, models, pools, teams, webhooks, doctor):
        part.register(app)
    if not set(words[:1]) & {"--version", "--show-completion", "--install-completion", *_names(app)}:
        commands, missing = _installed(words[:1])
        for name, command in commands.items():
            app.command(name)(command)
        app.info.epilog = "\n\n".join(filter(None, (_EXITS, _offer(missing))))
    _insist_on_once(app)
    return app


def _insist_on_once(app: typer.Typer) -> None:
    for command in app.registered_commands:
        command.cls = OnceEach
    for group in app.registered_groups:
        if group.typer_instance:
            _insist_on_once(group.typer_instance)


def _names(app: typer.Typer) -> Iterator[str]:
    for command in app.registered_commands:
        yield str(command.name or getattr(command.callback, "__name__", ""))
    for group in app.registered_groups:
        yield str(group.name)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(vlyard.__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What every command has in common."""


def _installed(wanted: Sequence[str]) -> tuple[dict[str, Command], dict[str, list[str]]]:
    commands: dict[str, Command] = {}
    missing: dict[str, list[str]] = {}
    extras = _extras()
    entries = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in [entry for entry in entries if entry.name in wanted] or entries:
        try:
            commands[entry.name] = entry.load()
        except ImportError as error:
            extra = extras.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            missing.setdefault(extra, []).append(entry.name)
    return commands, missing


def _extras() -> Mapping[str, str]:
    """Top-level modules of the optional packages, and the smallest extra of this distribution that brings each."""
    brings: dict[str, set[str]] = {}
    for line in requires("vlyard") or ():
        if found := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", line):
            brings.setdefault(found[2], set()).add(found[1].lower().replace("-", "_"))
    largest_first = sorted(brings, key=lambda extra: len(brings[extra]), reverse=True)
    return {module: extra for extra in largest_first for module in brings[extra]}


def _offer(missing: Mapping[str, list[str]]) -> str | None:
    lines = (f"{installing(extra)} adds: {', '.join(names)}." for extra, names in missing.items())
    return escape(" ".join(lines)) or None


def _explain(error: VLyardError) -> None:
    lines = [f"error: {error.message}", *(f"  {complaint}" for complaint in error.complaints)]
    notes = (*getattr(error, "__notes__", ()), _ADVICE.get(type(error), ""))
    lines += [f"  {note}" for note in notes if note]
    print("\n".join(lines), file=sys.stderr)
