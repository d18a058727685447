"""docs/start.md, word for word: each file written, each command run, each output compared."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.blocks import Block, blocks
from tests.integration.harness import ROOT, Process, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs/start.md"
BACKGROUND = "celery "
"""What begins so does not end: it is left running."""
MASKS = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d+)?": "<time>",
    r"ForkPoolWorker-\d+": "<process>",
    r"\b\d+(\.\d+)? (ms|s|min)\b": "<span>",
    r"redis\S* answers": "<broker> answers",
}


def masked(text: str) -> str:
    for pattern, name in MASKS.items():
        text = re.sub(pattern, name, text)
    return text


def agrees(shown: str, came: str) -> bool:
    """`...` stands for anything, as in a doctest; what is masked may be of another width."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(masked(shown), masked(came), flags)


def commands(block: Block) -> list[tuple[str, str]]:
    """(command, shown output) of a console block; a command goes on until its quotes are closed."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif _is_open(found[-1][0]):
            found[-1] = (f"{found[-1][0]}\n{line}", "")
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def _is_open(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False


class Reader:
    """Somebody with a terminal and an editor."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory = directory
        self.env = env
        self.logs = directory.parent
        self.background: list[Process] = []

    def follow(self, block: Block) -> None:
        if block.language == "console":
            for command, shown in commands(block):
                self.type(block, command, shown)
        elif block.language == "diff":
            self.change(block)
        else:
            self.write(block)

    def write(self, block: Block) -> None:
        head, _, text = block.text.partition("\n")
        name = re.fullmatch(r"# (\S+\.py)( \(at the end\))?", head)
        assert name, f"{block} does not say which file it is"
        path = self.directory / name.group(1)
        before = path.read_text() if name.group(2) else ""
        path.write_text(before + text)

    def change(self, block: Block) -> None:
        """Each run of lines with - becomes the run with + that follows it."""
        head, _, text = block.text.partition("\n")
        path = self.directory / head.removeprefix("# ")
        content = path.read_text()
        for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", text, re.MULTILINE):
            before, after = (re.sub(r"^[-+]", "", run, flags=re.MULTILINE) for run in (old, new))
            assert content.count(before) == 1, f"{block}: {before!r} is not once in {path.name}"
            content = content.replace(before, after)
        path.write_text(content)

    def type(self, block: Block, command: str, shown: str) -> None:
        if command.startswith("cd "):
            self.directory /= command.removeprefix("cd ")
        elif command.startswith(BACKGROUND):
            process = Process("worker", shlex.split(command), self.logs / "worker.log", self.env, cwd=self.directory)
            self.background.append(process)
            wait_for(
                lambda: agrees(shown + "...\n", process.output()),
                lambda: f"{block}: {command}\nshown:\n{shown}\ncame:\n{process.output()}",
            )
        else:
            came = self.run(command)
            assert agrees(shown, came), f"{block}: {command}\nshown:\n{shown}\ncame:\n{came}"

    def run(self, command: str) -> str:
        done = subprocess.run(
            shlex.split(command),
            cwd=self.directory,
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path, redis_broker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """With an empty directory. pip finds only the wheel of this checkout; Django and Celery are those of the tests."""
    wheels, installed, home = (tmp_path / name for name in ("wheels", "installed", "home"))
    home.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*build, "--no-build-isolation", "-w", str(wheels), str(ROOT)], check=True, timeout=120)
    for name in [name for name in os.environ if name.startswith(("DJANGO_", "SIGNALQ_", "PIP_"))]:
        monkeypatch.delenv(name)
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(installed),
        # The broker of this test run, in the place of the one in the page's settings: Celery reads it first.
        "CELERY_BROKER_URL": redis_broker,
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_TARGET": str(installed),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "",
    }
    reader = Reader(home, env)
    yield reader
    for process in reader.background:
        process.kill()


@pytest.mark.timeout(300)
def test_the_page_as_a_newcomer_follows_it(reader: Reader) -> None:
    for block in blocks(PAGE):
        reader.follow(block)
    (worker,) = reader.background
    assert worker.terminate() < 20
