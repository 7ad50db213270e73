"""Orthanc with its DICOMweb plugin: it finds and fetches what we have, and sends us what it has."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO

from dicomweb_parts import ct_slice
from peer_server import PEERS, Server, free_port, wait_for
from tilevault import Archive

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib")
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    url: str

    def ask(self, path: str, body: bytes | None = None, method: str | None = None) -> Any:
        """Its answer: JSON where it is such, else bytes."""
        request = urllib.request.Request(f"{self.url}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                data = response.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:2000]!r}") from error
        try:
            return json.loads(data)
        except ValueError:
            return data

    def post(self, path: str, document: Any) -> Any:
        """Its answer to a JSON document."""
        return self.ask(path, json.dumps(document).encode())

    def instances(self) -> dict[str, bytes]:
        """SOPInstanceUID -> file of everything that it holds."""
        found = {}
        for instance in self.ask("/instances"):
            tags = self.ask(f"/instances/{instance}/simplified-tags")
            request = urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=60)
            with request as response:
                found[tags["SOPInstanceUID"]] = response.read()
        return found


def program() -> tuple[str, str, dict[str, str]]:
    """Orthanc, its plugin, and the environment that they need; skips where there is none."""
    root = PEERS / "root"
    installed = shutil.which("Orthanc")
    unpacked = root / "usr/sbin/Orthanc"
    plugins = [
        *(root / "usr/lib").rglob("libOrthancDicomWeb.so*"),
        *Path("/usr/lib").glob("libOrthancDicomWeb.so*"),
    ]
    if not plugins or not (unpacked.exists() or installed):
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (tests/peers/install.sh)")
    path = ":".join(str(root / part) for part in LIBRARIES)
    environment = {**os.environ, "LD_LIBRARY_PATH": path, "DCMDICTPATH": ""}
    dictionaries = [*root.rglob("dicom.dic"), *Path("/usr/share").glob("libdcmtk*/dicom.dic")]
    if dictionaries:
        environment["DCMDICTPATH"] = str(dictionaries[0])
    return (str(unpacked) if unpacked.exists() else str(installed)), str(plugins[0]), environment


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Callable[[Server], Orthanc]]:
    """Starts an Orthanc that knows a server of ours as ``tilevault``."""
    command, plugin, environment = program()
    running: list[subprocess.Popen[bytes]] = []

    def start(server: Server) -> Orthanc:
        port = free_port()
        settings = {
            "HttpPort": port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(tmp_path / "orthanc"),
            "IndexDirectory": str(tmp_path / "orthanc"),
            "Plugins": [plugin],
            "HttpTimeout": 60,
            "DicomWeb": {
                "Enable": True,
                "Root": "/dicom-web/",
                "Servers": {"tilevault": {"Url": f"{server.dicomweb}/", "ChunkedTransfers": True}},
            },
        }
        configuration = tmp_path / "orthanc.json"
        configuration.write_text(json.dumps(settings))
        log = (tmp_path / "orthanc.log").open("wb")
        running.append(
            subprocess.Popen(
                [command, str(configuration)], env=environment, stdout=log, stderr=log, cwd=tmp_path
            )
        )
        log.close()
        try:
            wait_for(f"http://127.0.0.1:{port}/system")
        except OSError as error:
            raise AssertionError((tmp_path / "orthanc.log").read_text()[-3000:]) from error
        return Orthanc(f"http://127.0.0.1:{port}")

    yield start
    for process in running:
        process.terminate()
        process.wait(timeout=60)


def pixels(data: bytes) -> Any:
    return pydicom.dcmread(DicomBytesIO(data)).pixel_array


def test_it_finds_our_studies(orthanc: Callable[[Server], Orthanc], server: Server) -> None:
    peer = orthanc(server)
    answer = peer.post(
        "/dicom-web/servers/tilevault/qido", {"Uri": "/studies", "Arguments": {"PatientID": "TV-1"}}
    )
    assert [one["0020000D"]["Value"] for one in answer] == ["1.2.3"]
    answer = peer.post(
        "/dicom-web/servers/tilevault/qido",
        {"Uri": "/studies/1.2.3/series/1.2.3.1/instances", "Arguments": {"limit": "7", "offset": "15"}},
    )
    assert len(answer) == 5


@pytest.mark.parametrize(
    "name", ["generated", "CT_small.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm", "rtdose.dcm"]
)
def test_it_fetches_a_study(
    orthanc: Callable[[Server], Orthanc], server: Server, originals: dict[str, bytes], name: str
) -> None:
    peer = orthanc(server)
    study = "1.2.3" if name == "generated" else pydicom.dcmread(TEST_FILES / name).StudyInstanceUID
    peer.post("/dicom-web/servers/tilevault/retrieve", {"Resources": [{"Study": study}], "Synchronous": True})
    fetched = peer.instances()
    sops = {sop for sop, data in originals.items() if belongs(data, study)}
    assert fetched.keys() == sops
    for sop, data in fetched.items():
        # It asks for what is stored, or for Explicit VR Little Endian, as its version has it.
        if data != originals[sop]:
            np.testing.assert_array_equal(pixels(data), pixels(originals[sop]))
            assert pydicom.dcmread(DicomBytesIO(data)).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def belongs(data: bytes, study: str) -> bool:
    read = pydicom.dcmread(DicomBytesIO(data), stop_before_pixels=True, force=True)
    return bool(read.get("StudyInstanceUID") == study)


def test_it_sends_us_studies(orthanc: Callable[[Server], Orthanc], empty_server: Server) -> None:
    peer = orthanc(empty_server)
    sent = [ct_slice(n, side=128) for n in range(1, 13)]
    sent += [(TEST_FILES / name).read_bytes() for name in ("CT_small.dcm", "693_J2KI.dcm", "test-SR.dcm")]
    for data in sent:
        peer.ask("/instances", data)
    held = peer.instances()
    studies = peer.ask("/studies")
    peer.post("/dicom-web/servers/tilevault/stow", {"Resources": studies, "Synchronous": True})
    archived = {}
    for image in Archive.open(empty_server.archive).values():
        for i, file in enumerate(image.source.files):
            archived[file.record["uids"]["sop"]] = b"".join(image.source.rebuild(i))
    assert archived == held
    assert set(archived.values()) == set(sent)
    # Sending again is no error, and adds nothing.
    peer.post("/dicom-web/servers/tilevault/stow", {"Resources": studies, "Synchronous": True})
    assert len(Archive.open(empty_server.archive)) == 4
