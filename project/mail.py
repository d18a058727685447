"""The demo's own mail server: takes every mail, delivers none, keeps each as a file for the page to show."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

from aiosmtpd.smtp import SMTP

if TYPE_CHECKING:
    from pathlib import Path

    from aiosmtpd.smtp import Envelope, Session
    from typing_extensions import Self


@dataclass(frozen=True)
class Mail:
    to: str
    subject: str
    text: str


def received(directory: Path) -> list[Path]:
    """The files of all mails, the newest first."""
    return sorted(directory.glob("*.eml"), reverse=True)


def read(path: Path) -> Mail:
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    body = message.get_body(("plain",))
    return Mail(
        to=str(message["to"] or ""),
        subject=str(message["subject"] or ""),
        text=str(body.get_content()).strip() if body else "",
    )


class _Keeper:
    """What aiosmtpd calls for each mail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        name = f"{time.time_ns()}.eml"
        part = self.directory / f"{name}.part"
        part.write_bytes(envelope.original_content or b"")
        part.rename(self.directory / name)  # The page never reads half a mail.
        return "250 kept"


class MailServer:
    """Listens on a free port of the loopback, in a thread.

    with MailServer(directory) as server:
        os.environ["EMAIL_URL"] = server.url
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mail server", daemon=True)

    def start(self) -> str:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self.url

    async def _listen(self) -> str:
        keeper = _Keeper(self.directory)
        server = await self._loop.create_server(lambda: SMTP(keeper, loop=self._loop), host="127.0.0.1", port=0)
        return f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
