"""Web processes, workers and commands of several versions of one project, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.integration.harness import ROOT, Process

if TYPE_CHECKING:
    from tests.integration.harness import Saver, Site

QUICK = {"LEASE": 3, "GRACE": 1}
"""What is lost is noticed sooner than with the defaults."""


class Project:
    """The processes of one test; each is told which version it has."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.env["DJANGO_SETTINGS_MODULE"] = "tests.faults.versions.settings"
        self.settings()

    def settings(self, **signalq: object) -> None:
        """What SIGNALQ holds in the processes that are started from now on."""
        self.site.env["SIGNALQ_FAULTS_SETTINGS"] = json.dumps(signalq)

    def web(self, version: str) -> Saver:
        return self.site.saver(SIGNALQ_FAULTS_VERSION=version)

    def worker(self, version: str, *options: str, relay: bool = True, seconds: float = 0.2, **env: str) -> Process:
        """A worker with two children, or with ``options``; ``seconds`` are those of the slow handlers."""
        signalq = {**json.loads(self.site.env["SIGNALQ_FAULTS_SETTINGS"]), "RELAY": relay}
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.celeryapp", "worker", "--loglevel=INFO"]
        command += ["--without-mingle", "--without-gossip"]  # it is ready a second sooner
        worker = self._start(
            f"worker-{version}",
            # RabbitMQ takes no two workers of one name.
            [*command, f"--hostname={version}-{len(self.site.processes)}@%h", *(options or ("--concurrency=2",))],
            SIGNALQ_FAULTS_VERSION=version,
            SIGNALQ_FAULTS_SETTINGS=json.dumps(signalq),
            SIGNALQ_FAULTS_HANDLER_SECONDS=str(seconds),
            **env,
        )
        worker.wait_for_output(" ready.")
        return worker

    def relay(self, version: str) -> Process:
        command = [sys.executable, "-m", "django", "signalq", "relay"]
        return self._start(f"relay-{version}", command, SIGNALQ_FAULTS_VERSION=version)

    def manage(self, version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`manage.py` with ``arguments``."""
        return subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.site.env, "SIGNALQ_FAULTS_VERSION": version},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _start(self, name: str, command: list[str], **env: str) -> Process:
        log = self.site.scratch / f"{len(self.site.processes)}-{name}.log"
        process = Process(name, command, log, {**self.site.env, **env})
        self.site.processes.append(process)
        return process
