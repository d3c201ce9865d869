"""`python -m migrations <number> <message>`: write the next migration from what the models say.

Compares with the database of `VLYARD_DATABASE_URL`, which must have the newest migration so far.
"""

import os
import sys

from db.migrating import write_revision

if __name__ == "__main__":
    number, message = sys.argv[1:]
    write_revision(os.environ["VLYARD_DATABASE_URL"], number, message)
