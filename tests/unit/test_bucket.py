"""The bucket that keeps the files of jobs, as far as it can be tested without a server."""

import socket
from threading import Thread

import pytest

from app.errors import JobsAway
from app.jobs.bucket import Bucket
from tests.s3 import KEYS


def test_a_store_that_did_not_answer_is_not_asked_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections = []

    def refuse(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # the test has ended
                return
            connections.append(connection)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=refuse, args=(listening,), daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket("s3://city/jobs")
        assert not bucket.is_away
        with pytest.raises(JobsAway, match="The store of jobs can't be reached"):
            bucket.read("a/upload")
        assert bucket.is_away
        tried = len(connections)
        assert tried == 3, "once, and twice again"
        bucket._again_at += 3600  # however slow this machine is
        for ask in (bucket.check, lambda: bucket.write("a/upload", b""), lambda: bucket.size("a")):
            with pytest.raises(JobsAway):
                ask()
        assert len(connections) == tried
        listening.shutdown(socket.SHUT_RDWR)
