"""Clients that keep a service busy while its replicas are killed."""

import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import httpx2
import psutil

from tests.e2e.conftest import Server
from tests.e2e.following import wait_until

wait_for = partial(wait_until, seconds=600)
"""Waits as long as Ray may take to begin a replica on a busy machine."""


@dataclass
class Load:
    """Clients that send one image after the other, and how their requests ended."""

    server: Server
    path: str
    image: bytes
    clients: int = 3
    ends: Counter[str] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        with httpx2.Client(timeout=300) as client:
            self._right = self._post(client).content
        self._threads = [threading.Thread(target=self._send) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _post(self, client: httpx2.Client) -> httpx2.Response:
        headers = {"Content-Type": "image/png"}
        return client.post(self.server.url + self.path, headers=headers, content=self.image)

    def _send(self) -> None:
        with httpx2.Client(timeout=300) as client:
            while not self._over.is_set():
                try:
                    answer = self._post(client)
                    right = answer.is_success and answer.content == self._right
                    self.ends[
                        "right" if right else f"{answer.status_code} {answer.text[:300]}"
                    ] += 1
                except httpx2.HTTPError as error:
                    self.ends[repr(error)] += 1

    def kill_replicas(self, kills: int, requests: int = 0) -> None:
        """Kill one replica after the other, each once all are there and at work.

        At least `requests` have ended by the end, spread over the time from kill to kill.
        """
        number = len(replicas(self.server))
        for kill in range(1, kills + 1):
            until = max(self.ends.total() + 3, requests * kill // (kills + 1))
            wait_for(lambda: len(replicas(self.server)) == number)
            wait_for(lambda until=until: self.ends.total() >= until)  # type: ignore[misc]
            victim = replicas(self.server)[kill % number]
            victim.send_signal(signal.SIGKILL)
            wait_for(lambda victim=victim: victim not in replicas(self.server))  # type: ignore[misc]
        wait_for(lambda: len(replicas(self.server)) == number)
        wait_for(lambda: self.ends.total() >= requests)


def replicas(server: Server) -> list[psutil.Process]:
    """Find the replicas below a service: Ray gives them their names."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if "ray::ServeReplica:rooftrace:models" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
