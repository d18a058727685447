"""Run after the page's own tests, since a page may also show what its reader had before, which nothing imports."""

import importlib
from pathlib import Path

from django.core.management import call_command


def test_every_file_can_be_imported_and_the_checks_pass(db):  # checks of fields look at the database
    for path in sorted(Path().glob("*/*.py")):
        if not path.name.startswith("test"):
            importlib.import_module(".".join(path.with_suffix("").parts))
    call_command("check")
