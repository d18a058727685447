"""``manage.py signalq``: a module each subcommand, with HELP, ``add_arguments(parser)``, ``handle(command, options)``.

``handle`` writes to the command's own stdout and stderr, and raises CommandError for exit status 1.
"""

SUBCOMMANDS = ("receivers", "status", "relay", "replay", "discard", "backfill")
"""In the order of ``--help``; a subcommand ``no-go`` would be the module ``no_go``."""
