"""What has to be there before the first job: the schema, the default pool, the bucket."""

from contextlib import closing

from control.artefacts import ArtefactStore
from control.settings import Settings
from db import accounts
from db.migrating import upgrade
from db.session import Database

DEFAULT_POOL = "default"


def prepare(settings: Settings) -> None:
    """Bring the database to this version's schema, and make the default pool and the bucket; safe to repeat."""
    url = settings.database_url.get_secret_value()
    upgrade(url)
    with closing(Database(url, connections=1)) as database, database.transaction() as session:
        accounts.ensure_pool(session, DEFAULT_POOL)
    ArtefactStore(settings).ensure_bucket()
