"""The requests of OHIF's DICOMweb data source, in its order and with its parameters and headers.

OHIF itself is started in `test_ohif`; what it asks for was read off its source (extensions/default,
DicomWebDataSource: qido.js, index.ts; platform/core, generateAcceptHeader.ts) and what it uses of the answers
is checked.
"""

import json
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO

from dicomweb_parts import parts
from peer_server import Server

JSON = "application/dicom+json"
FIELDS = "00081030,00080060,00080090,00100030"


class Answer:
    """Headers and content, as `parts` wants them."""

    def __init__(self, url: str, accept: str, origin: str) -> None:
        request = urllib.request.Request(url, headers={"Accept": accept, "Origin": origin})
        with urllib.request.urlopen(request, timeout=60) as response:
            self.status = response.status
            self.headers = {name.lower(): value for name, value in response.headers.items()}
            self.content = response.read()

    def json(self) -> Any:
        return json.loads(self.content)


@pytest.fixture
def ask(server: Server) -> Any:
    def get(path: str, form: str = JSON, /, **query: Any) -> Answer:
        text = f"?{urllib.parse.urlencode(query)}" if query else ""
        return Answer(f"{server.dicomweb}{path}{text}", form, server.url)

    return get


def test_the_study_list(ask: Any) -> None:
    """First page of the work list, then what a user types into its filters."""
    everything = ask("/studies", limit=101, offset=0, fuzzymatching="false", includefield=FIELDS).json()
    assert len(everything) > 10
    for study in everything:
        # What a row of the list is made of.
        assert study["0020000D"]["Value"][0]
        assert study["00201208"]["Value"][0] >= 1
        assert all(tag in study for tag in ("00080020", "00080030", "00080050", "00100010", "00100020"))
        # What has no modality lacks the attribute: of an empty one OHIF reads the length of nothing.
        assert all(isinstance(one, str) for one in study.get("00080061", {"Value": []})["Value"])
    named = ask(
        "/studies", PatientName="*doe*", limit=101, offset=0, fuzzymatching="false", includefield=FIELDS
    )
    assert "1.2.3" in [study["0020000D"]["Value"][0] for study in named.json()]
    numbered = ask("/studies", **{"00100020": "*TV-1*"}, limit=101, offset=0, includefield=FIELDS)
    assert [study["0020000D"]["Value"][0] for study in numbered.json()] == ["1.2.3"]
    dated = ask("/studies", StudyDate="20240101-20240131", ModalitiesInStudy="CT", limit=101, offset=0)
    assert [study["0020000D"]["Value"][0] for study in dated.json()] == ["1.2.3"]
    assert ask("/studies", PatientName="*nobody*", limit=101, offset=0).status == 204
    several = ask("/studies", StudyInstanceUID="1.2.3\\9.9", limit=101, offset=0).json()
    assert len(several) == 1


def test_a_study_is_opened(ask: Any, originals: dict[str, bytes]) -> None:
    """Series, metadata of each, then frames with the Accept that the data source makes."""
    series = ask("/studies/1.2.3/series", includefield="0008103E,00080021").json()
    assert [one["0020000E"]["Value"][0] for one in series] == ["1.2.3.1"]
    assert series[0]["00201209"]["Value"] == [20]
    metadata = ask("/studies/1.2.3/series/1.2.3.1/metadata").json()
    assert len(metadata) == 20
    for one in metadata:
        # What makes a stack, and a volume, of the instances.
        for tag in ("00080018", "00080016", "00280010", "00280011", "00280100", "00280103", "00280004"):
            assert one[tag]["Value"], tag
        assert one["00200032"]["Value"][2] == pytest.approx(2.5 * one["00200013"]["Value"][0])
        assert len(one["00200037"]["Value"]) == 6
        assert one["00083002"]["Value"] == ["1.2.840.10008.1.2.1"]
        sop = one["00080018"]["Value"][0]
        answer = ask(
            f"/studies/1.2.3/series/1.2.3.1/instances/{sop}/frames/1",
            'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
        )
        ((headers, content),) = parts(answer)
        assert headers["content-type"].endswith("transfer-syntax=1.2.840.10008.1.2.1")
        data = pydicom.dcmread(DicomBytesIO(originals[sop]))
        np.testing.assert_array_equal(np.frombuffer(content, "<i2"), data.pixel_array.reshape(-1))


@pytest.mark.parametrize(
    ("accept", "syntax"),
    [
        ('multipart/related; type="application/octet-stream"; transfer-syntax="*"', "1.2.840.10008.1.2.1"),
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", "1.2.840.10008.1.2.1"),
        (
            (
                'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; '
                'transfer-syntax="*"'
            ),
            "1.2.840.10008.1.2.4.80",
        ),
        (
            (
                'multipart/related; type="image/jp2"; transfer-syntax="1.2.840.10008.1.2.4.90"; '
                'transfer-syntax="*"'
            ),
            "1.2.840.10008.1.2.4.90",
        ),
    ],
)
def test_every_configuration_of_transfer_syntax(ask: Any, accept: str, syntax: str) -> None:
    answer = ask("/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.2/frames/1", accept)
    ((headers, _),) = parts(answer)
    assert headers["content-type"].endswith(f"transfer-syntax={syntax}")


def test_thumbnails_and_bulk_data(ask: Any) -> None:
    answer = ask("/studies/1.2.3/series/1.2.3.1/thumbnail", "image/jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    answer = ask("/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.2/rendered", "*/*", accept="image/jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
