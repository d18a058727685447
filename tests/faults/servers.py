"""The broker under a fault: frozen, refusing, emptied."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.faults.queues import QUEUE, channel, client
from tests.integration.harness import Proxy

if TYPE_CHECKING:
    from tests import services
    from tests.faults.own_rabbitmq import OwnRabbitMQ


class Server:
    """A Redis or a RabbitMQ of the tests' own."""

    def __init__(self, url: str, redis: services.Redis | None = None, rabbitmq: OwnRabbitMQ | None = None) -> None:
        self._redis, self._rabbitmq = redis, rabbitmq
        self._direct = self.url = url
        if rabbitmq:  # a node takes seconds to start, so what refuses is a proxy in front of it
            parts = urlsplit(url)
            self._proxy = Proxy("127.0.0.1", rabbitmq.port)
            self.url = parts._replace(netloc=f"guest:guest@127.0.0.1:{self._proxy.port}").geturl()
            self.delete_queue()

    def freeze(self) -> None:
        if self._redis:
            os.kill(self._redis.server.pid, signal.SIGSTOP)
        if self._rabbitmq:
            self._rabbitmq.freeze()

    def thaw(self) -> None:
        if self._redis:
            os.kill(self._redis.server.pid, signal.SIGCONT)
        if self._rabbitmq:
            self._rabbitmq.thaw()

    def refuse(self) -> None:
        """Nobody listens; a Redis loses all that it held."""
        if self._redis:
            self._redis.server.kill()
        if self._rabbitmq:
            self._proxy.refuse()

    def accept(self) -> None:
        if self._redis:
            self._redis.server.start()
        if self._rabbitmq:
            self._proxy.accept()

    def delete_queue(self) -> None:
        if self._redis:
            with client(self._direct) as opened:
                opened.delete(QUEUE)
        if self._rabbitmq:
            with channel(self._direct) as opened:
                opened.queue_delete(QUEUE)

    def close(self) -> None:
        """As it was, for the next test."""
        self.thaw()
        if self._redis:
            self._redis.empty()
        if self._rabbitmq:
            self._proxy.close()
