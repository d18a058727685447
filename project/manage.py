#!/usr/bin/env python
"""Django's command line: `python project/manage.py ...` or `python -m project.manage ...`, from anywhere."""

import os
import sys
from pathlib import Path


def main() -> None:
    # Run as a file, Python puts project/ on the path instead of the folder above it, and `accounts` could then be
    # imported under two names.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != here)]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
