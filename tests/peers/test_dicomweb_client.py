"""dicomweb-client (Python): searches, retrieves and stores through a real connection."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO

from collection import write_ct_series
from dicomweb_parts import ct_slice
from peer_server import Server
from tilevault import Archive, add

api = pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")
FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def client_of(server: Server) -> "api.DICOMwebClient":
    return api.DICOMwebClient(url=server.dicomweb)


def test_searches(server: Server) -> None:
    client = client_of(server)
    studies = client.search_for_studies(search_filters={"PatientID": "TV-1"}, fields=["StudyDescription"])
    assert [study["0020000D"]["Value"] for study in studies] == [["1.2.3"]]
    assert len(client.search_for_instances("1.2.3", "1.2.3.1", limit=7, offset=15)) == 5
    assert len(client.search_for_instances("1.2.3", get_remaining=True, limit=7)) == 20
    assert client.search_for_series(search_filters={"Modality": "CT", "StudyInstanceUID": "1.2.3"})
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_retrieves(server: Server, originals: dict[str, bytes]) -> None:
    client = client_of(server)
    metadata = client.retrieve_series_metadata("1.2.3", "1.2.3.1")
    assert len(metadata) == 20
    data = pydicom.dcmread(DicomBytesIO(originals["1.2.3.1.4"]))
    fetched = client.retrieve_instance(
        "1.2.3", "1.2.3.1", "1.2.3.1.4", media_types=(("application/dicom", "*"),)
    )
    assert fetched == data
    assert len(client.retrieve_study("1.2.3")) == 20
    (frame,) = client.retrieve_instance_frames("1.2.3", "1.2.3.1", "1.2.3.1.4", [1])
    np.testing.assert_array_equal(np.frombuffer(frame, "<i2").reshape(128, 128), data.pixel_array)
    for media, syntax in (("image/jls", "80"), ("image/jp2", "90")):
        (frame,) = client.retrieve_instance_frames(
            "1.2.3", "1.2.3.1", "1.2.3.1.4", [1], media_types=((media, f"1.2.840.10008.1.2.4.{syntax}"),)
        )
        import imagecodecs

        decode = {"80": imagecodecs.jpegls_decode, "90": imagecodecs.jpeg2k_decode}[syntax]
        np.testing.assert_array_equal(np.asarray(decode(frame)).view("<i2"), data.pixel_array)
    shown = client.retrieve_instance_rendered("1.2.3", "1.2.3.1", "1.2.3.1.4", media_types=("image/png",))
    assert shown.startswith(b"\x89PNG")
    bulk = next(value["BulkDataURI"] for value in metadata[3].values() if "BulkDataURI" in value)
    assert client.retrieve_bulkdata(bulk)[0] == data.PixelData


def test_stores(empty_server: Server) -> None:
    client = client_of(empty_server)
    sent = [pydicom.dcmread(DicomBytesIO(ct_slice(n))) for n in (1, 2, 3)]
    sent.append(pydicom.dcmread(FILES / "MR_small.dcm"))
    answer = client.store_instances(sent)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        data.SOPInstanceUID for data in sent
    ]
    assert "FailedSOPSequence" not in answer
    assert len(Archive.open(empty_server.archive)) == 2
    assert len(client.search_for_instances()) == 4
    assert client.retrieve_instance("1.2.3", "1.2.3.1", "1.2.3.1.2") == sent[1]


def test_the_example_of_the_guide(serve: Callable[[Path], Server], tmp_path: Path, capsys: Any) -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "howto-dicomweb.md"
    (example,) = re.findall(
        r"^```python no-run\n(.*?dicomweb_client.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL
    )
    write_ct_series(tmp_path / "ct", slices=2)
    add([tmp_path / "ct"], tmp_path / "archive")
    exec(compile(example, str(guide), "exec"), {"url": f"{serve(tmp_path / 'archive').url}/"})
    assert capsys.readouterr().out == "(2, 512, 512) int16\n"
