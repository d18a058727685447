"""The loop: {"do": "save_many", "count": 1000} is answered with what that function returns."""

from __future__ import annotations

import json
import sys
import traceback

import django


def main() -> None:
    django.setup()
    from benchmarks.inside import footprint, outbox, partitioned, relays, saving, server, state, upkeep

    commands = {
        name: function
        for module in (footprint, outbox, partitioned, relays, saving, server, state, upkeep)
        for name, function in vars(module).items()
        if callable(function) and getattr(function, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = commands[request.pop("do")](**request)
        except Exception:  # noqa: BLE001 - the runner reports it as this variant's
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
