"""For tests against real peers: an archive, a running server, and the peers where they are installed.

`make test-peers` installs what can be installed and runs these tests; elsewhere they skip and say why.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
import uvicorn

from dicomweb_parts import write_series
from peer_server import Server, free_port, wait_for
from tilevault import Archive
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.settings import Settings

ENABLED = "TILEVAULT_PEERS"
WITHOUT = ("MR_truncated.dcm", "rtplan_truncated.dcm", "badVR.dcm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.peers)
            if not os.environ.get(ENABLED):
                item.add_marker(pytest.mark.skip(reason="starts real peers: run `make test-peers`"))


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Server]]:
    """Starts a server on an archive; all are stopped at the end."""
    os.environ["TILEVAULT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(archive: Path) -> Server:
        port = free_port()
        config = uvicorn.Config(
            create_app(Settings(str(archive), port=port)), "127.0.0.1", port, log_level="warning"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        wait_for(f"http://127.0.0.1:{port}/health")
        return Server(f"http://127.0.0.1:{port}", archive)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of pydicom's test files and a generated series of 20 slices."""
    folder = tmp_path_factory.mktemp("collection")
    source = Path(pydicom.__file__).parent / "data" / "test_files"
    files = [path for path in source.glob("*.dcm") if path.name not in WITHOUT]
    write_series(folder / "ct", 20, side=128)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tilevault.workflows.cli", "add", *map(str, files),
         str(folder / "ct"), str(folder / "archive")],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    return folder / "archive"


@pytest.fixture(scope="session")
def server(serve: Callable[[Path], Server], collection: Path) -> Server:
    """A server on `collection`."""
    return serve(collection)


@pytest.fixture
def empty_server(serve: Callable[[Path], Server], tmp_path: Path) -> Server:
    """A server on an archive without images."""
    Archive.create(tmp_path / "archive")
    return serve(tmp_path / "archive")


@pytest.fixture(scope="session")
def originals(collection: Path) -> dict[str, bytes]:
    """SOPInstanceUID -> the bytes of the file that was archived."""
    found = {}
    for image in Archive.open(collection).values():
        if image.description.format == "dicom":
            for i, file in enumerate(image.source.files):
                found[file.record["uids"]["sop"]] = b"".join(image.source.rebuild(i))
    return found
