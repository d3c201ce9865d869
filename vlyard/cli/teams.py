"""`vlyard teams` and `vlyard keys`: who may use this VLyard. Over the API, with an administrator's key."""

from typing import Annotated

import typer

from vlyard.cli.listing import AsJson, ListingGroup, print_json, show_table, time_text
from vlyard.client import Client
from vlyard.teams import Role, prefix_of

_teams = typer.Typer(cls=ListingGroup, help="Teams; lists them where no verb is given.")
_keys = typer.Typer(no_args_is_help=True, help="The API keys of a team.")

TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="The team's name or id.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.add_typer(_teams, name="teams")
    app.add_typer(_keys, name="keys")


@_teams.command("list")
def list_teams(as_json: AsJson = False) -> None:
    """List all teams, for administrators."""
    with Client() as client:
        found = client.teams()
    if as_json:
        print_json(found)
    else:
        show_table(("TEAM", "ID", "CREATED"), [(each.name, str(each.id), time_text(each.created_at)) for each in found])


@_teams.command("create")
def create_team(
    name: Annotated[str, typer.Argument(help="Letters, digits, _, . and -; 63 at most.")], as_json: AsJson = False
) -> None:
    """Make a team, for administrators."""
    with Client() as client:
        made = client.create_team(name)
    if as_json:
        print_json(made)
    else:
        print(f"team {made.name} is made; a key for it: vlyard keys create {made.name}")


@_keys.command("list")
def list_keys(team: TeamName, as_json: AsJson = False) -> None:
    """List a team's keys by their prefixes, for administrators."""
    with Client() as client:
        found = client.keys(team)
    if as_json:
        print_json(found)
        return
    titles = ("PREFIX", "TEAM", "ROLE", "CREATED", "REVOKED")
    show_table(titles, [(k.prefix, k.team, k.role, time_text(k.created_at), time_text(k.revoked_at)) for k in found])


@_keys.command("create")
def create_key(
    team: TeamName,
    role: Annotated[Role, typer.Option(help="What the key may do.")] = Role.MEMBER,
    as_json: AsJson = False,
) -> None:
    """Make a key for a team, for administrators, and print it: it is shown only now."""
    with Client() as client:
        made = client.create_key(team, role)
    if as_json:
        print_json(made)
    else:
        print(made.key)


@_keys.command("revoke")
def revoke_key(
    prefix: Annotated[str, typer.Argument(help="The part of the key between its underscores, or the whole key.")],
    as_json: AsJson = False,
) -> None:
    """Take a key back, for administrators: from now on it opens nothing."""
    with Client() as client:
        client.revoke_key(prefix)
    named = prefix_of(prefix)
    print(f'{{"revoked": "{named}"}}' if as_json else f"key {named} opens nothing any more")
