"""QIDO-RS and WADO-RS: what is found, in which form it comes, and that it is what was archived."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture
from starlette.testclient import TestClient

from dicomweb_parts import parts, write_series
from tilevault import Archive, add
from tilevault.codecs.frame_encode import ENCODERS
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.dicomweb import instances as instances_module
from tilevault.workflows.serve.dicomweb import wado
from tilevault.workflows.serve.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

WEB = "/dicom-web"
ROOT = "http://localhost:8480"
FILES = Path(pydicom.__file__).parent / "data" / "test_files"
STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
EXPLICIT = 'multipart/related; type="application/dicom"'
J = "1.2.840.10008.1.2.4."


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """pydicom's test files, a generated series, and a lossy copy of a series without its original."""
    folder = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.showwarning", lambda *a: None)
        add([FILES], folder / "archive")
    write_series(
        folder / "ct", 12, PatientName="Müller^Jörg".encode("latin-1"), SpecificCharacterSet="ISO_IR 100"
    )
    add([folder / "ct"], folder / "archive")
    write_series(folder / "lossy", 3, study="1.8", series="1.8.1", side=64)
    add([folder / "lossy"], folder / "archive", lossy="max-error=3")
    write_series(folder / "both", 2, study="1.9", series="1.9.1", side=64)
    add([folder / "both"], folder / "archive")
    add([folder / "both"], folder / "archive", lossy="max-error=3")
    return Archive.open(folder / "archive")


@pytest.fixture(scope="module")
def originals(archive: Archive) -> dict[str, bytes]:
    """SOPInstanceUID -> the file that was archived."""
    found = {}
    for image in archive.values():
        if image.description.format == "dicom" and image.fidelity == "exact":
            for i, file in enumerate(image.source.files):
                found[file.record["uids"]["sop"]] = b"".join(image.source.rebuild(i))
    return found


@pytest.fixture(scope="module")
def client(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEVAULT_CACHE", str(tmp_path_factory.mktemp("cache")))
        with TestClient(create_app(Settings(str(archive.path))), base_url=ROOT) as made:
            yield made


def search(client: TestClient, what: str, expected: int = 200, **query: str) -> list[dict[str, Any]]:
    response = client.get(f"{WEB}/{what}", params=query)
    assert response.status_code == expected, response.text
    if expected != 200:
        return []
    assert response.headers["content-type"] == "application/dicom+json"
    return response.json()


def value(result: dict[str, Any], tag: str) -> Any:
    return result[tag]["Value"][0]


def uids(results: list[dict[str, Any]], tag: str = "0020000D") -> set[str]:
    return {value(result, tag) for result in results}


def url_of(data: Any) -> str:
    """Path of an instance."""
    series = f"{WEB}/studies/{data.StudyInstanceUID}/series/{data.SeriesInstanceUID}"
    return f"{series}/instances/{data.SOPInstanceUID}"


# -- searches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"PatientName": "müller^jörg"}, True),
        ({"PatientName": "MÜLLER*"}, True),
        ({"00100010": "*J?rg"}, True),
        ({"PatientName": "Müller"}, False),
        ({"PatientID": "TV-1"}, True),
        ({"PatientID": "tv-1"}, False),
        ({"PatientID": "T?-1"}, True),
        ({"PatientID": "T[V]-1"}, False),
        ({"PatientID": "%"}, False),
        ({"StudyDate": "20240102"}, True),
        ({"StudyDate": "20240101-20240131"}, True),
        ({"StudyDate": "20240103-"}, False),
        ({"StudyDate": "-20240102"}, True),
        ({"StudyInstanceUID": "1.2.3"}, True),
        ({"StudyInstanceUID": "1.1,1.2.3,9.9"}, True),
        ({"StudyInstanceUID": "1.1\\1.2.3"}, True),
        ({"ModalitiesInStudy": "MR,CT"}, True),
        ({"ModalitiesInStudy": "MR"}, False),
        ({"PatientName": ""}, True),
        ({"PatientName": "*", "StudyDate": "20240102", "Modality": "CT"}, True),
    ],
)
def test_matching_of_studies(client: TestClient, query: dict[str, str], found: bool) -> None:
    response = client.get(f"{WEB}/studies", params=query)
    assert response.status_code in (200, 204)
    results = response.json() if response.status_code == 200 else []
    assert ("1.2.3" in uids(results)) == found


def test_a_study_as_it_is_answered(client: TestClient) -> None:
    (study,) = search(client, "studies", StudyInstanceUID="1.2.3")
    assert value(study, "00201208") == 12
    assert value(study, "00201206") == 1
    assert study["00080061"]["Value"] == ["CT"]
    assert value(study, "00100010") == {"Alphabetic": "Müller^Jörg"}
    assert value(study, "00080005") == "ISO_IR 192"
    assert study["00080050"] == {"vr": "SH"}
    assert value(study, "00081190") == f"{ROOT}{WEB}/studies/1.2.3"
    assert list(study) == sorted(study)


def test_levels_and_their_attributes(client: TestClient) -> None:
    (series,) = search(client, "studies/1.2.3/series")
    assert (value(series, "0020000E"), value(series, "00201209")) == ("1.2.3.1", 12)
    assert "00100010" not in series
    (series,) = search(client, "series", SeriesInstanceUID="1.2.3.1")
    assert value(series, "00100020") == "TV-1"
    instances = search(client, "studies/1.2.3/series/1.2.3.1/instances")
    assert [value(one, "00200013") for one in instances] == list(range(1, 13))
    assert value(instances[0], "00280010") == 32
    assert value(instances[0], "00083002") == "1.2.840.10008.1.2.1"
    (one,) = search(client, "instances", SOPInstanceUID="1.2.3.1.7")
    assert value(one, "00100020") == "TV-1"
    assert len(search(client, "studies/1.2.3/instances", InstanceNumber="3")) == 1
    assert len(search(client, "instances", Rows="32", PatientID="TV-1")) == 12


def test_included_fields(client: TestClient) -> None:
    (plain,) = search(client, "instances", SOPInstanceUID="1.2.3.1.7")
    assert "00200032" not in plain
    (named,) = search(
        client, "instances", SOPInstanceUID="1.2.3.1.7", includefield="ImagePositionPatient,00281053"
    )
    assert named["00200032"]["Value"] == [0, 0, 17.5]
    assert value(named, "00281053") == 1
    (every,) = search(client, "instances", SOPInstanceUID="1.2.3.1.7", includefield="all")
    assert {"00200032", "00200037", "00280030"} <= every.keys()


def test_fields_that_only_the_header_has(client: TestClient) -> None:
    (study,) = search(client, "studies", StudyInstanceUID="1.2.3", includefield="PixelRepresentation")
    assert value(study, "00280103") == 1
    data = pydicom.dcmread(FILES / "CT_small.dcm")
    (one,) = search(
        client,
        "instances",
        SOPInstanceUID=data.SOPInstanceUID,
        includefield="KVP,00431028,OtherPatientIDsSequence",
    )
    assert value(one, "00180060") == float(data.KVP)
    assert len(one["00101002"]["Value"]) == len(data.OtherPatientIDsSequence)


def test_pages_are_stable_and_say_what_is_left(client: TestClient) -> None:
    everything = [value(one, "00080018") for one in search(client, "instances")]
    paged: list[str] = []
    while True:
        response = client.get(f"{WEB}/instances", params={"limit": "17", "offset": str(len(paged))})
        if response.status_code == 204:
            break
        page = [value(one, "00080018") for one in response.json()]
        left = len(everything) - len(paged) - len(page)
        warned = response.headers.get("warning", "")
        assert (f"There are {left} additional results that can be requested" in warned) == (left > 0)
        paged += page
    assert paged == everything
    assert len(set(everything)) == len(everything) > 100
    assert client.get(f"{WEB}/studies?limit=0").status_code == 204


def test_fuzzy_matching_is_answered_honestly(client: TestClient) -> None:
    response = client.get(f"{WEB}/studies", params={"PatientName": "Mueller*", "fuzzymatching": "true"})
    assert response.status_code == 204
    assert "Only literal matching has been performed" in response.headers["warning"]
    response = client.get(f"{WEB}/studies", params={"fuzzymatching": "false"})
    assert "warning" not in response.headers


def test_what_cannot_be_matched_is_told(client: TestClient) -> None:
    response = client.get(f"{WEB}/studies", params={"KVP": "120", "StudyInstanceUID": "1.2.3"})
    assert response.status_code == 200
    assert "not supported for matching" in response.headers["warning"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=abc",
        "limit=1e3",
        "offset=99999999999999",
        "fuzzymatching=maybe",
        "Nonsense=1",
        "0020000D.0020000E.00080018=1",
        "includefield=Nonsense",
        "StudyDate=2024",
        "StudyDate=20240101-20240102-20240103",
        "StudyDate=yesterday",
        "StudyInstanceUID=1.2.3%27%20OR%201=1",
        "StudyInstanceUID=../../etc",
        "Rows=many",
        "Rows=nan",
        f"PatientName={'a' * 1500}",
    ],
)
def test_queries_that_make_no_sense(client: TestClient, query: str) -> None:
    response = client.get(f"{WEB}/instances?{query}")
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "text",
    [
        "' OR 1=1 --",
        '"; DROP TABLE studies; --',
        "\\",
        "$.x",
        "a' UNION SELECT * FROM images --",
        "\x00",
        "]}{[",
    ],
)
def test_text_is_text_and_no_statement(client: TestClient, text: str) -> None:
    for key in ("PatientID", "PatientName", "StudyDescription", "AccessionNumber"):
        assert client.get(f"{WEB}/studies", params={key: text}).status_code == 204
    assert len(search(client, "studies")) > 10


def test_wildcards_cost_little(client: TestClient) -> None:
    """Patterns that make backtracking matchers run for ever."""
    for pattern in ("*a" * 400 + "b", "?*" * 400 + "x", "*" * 1000, "*?*?*?*?*?" * 90):
        response = client.get(f"{WEB}/instances", params={"PatientName": pattern, "includefield": "00100010"})
        assert response.status_code in (200, 204)
        assert response.elapsed.total_seconds() < 5


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom+json", 200),
        ("application/json", 200),
        ("*/*", 200),
        ("application/*;q=0.3", 200),
        ("text/html, application/dicom+json;q=0.1", 200),
        ('multipart/related; type="application/dicom+xml"', 406),
        ("application/dicom+json;q=0", 406),
        ("image/png", 406),
        ("nonsense", 400),
    ],
)
def test_forms_of_search_results(client: TestClient, accept: str, status: int) -> None:
    assert client.get(f"{WEB}/studies", headers={"Accept": accept}).status_code == status


def test_the_query_parameter_accept_counts_before_the_header(client: TestClient) -> None:
    headers = {"Accept": "image/png"}
    assert client.get(f"{WEB}/studies?accept=application/dicom%2Bjson", headers=headers).status_code == 200


# -- instances --------------------------------------------------------------------------------------------


def test_every_instance_comes_back_byte_for_byte(client: TestClient, originals: dict[str, bytes]) -> None:
    seen = 0
    for study in search(client, "studies"):
        response = client.get(value(study, "00081190"), headers={"Accept": STORED})
        assert response.status_code == 200
        for headers, content in parts(response):
            sop = headers["content-location"].rpartition("/")[2]
            if sop.startswith("2.25."):
                continue
            seen += 1
            assert content == originals[sop], sop
            kind, _, syntax = headers["content-type"].partition("; transfer-syntax=")
            assert kind == "application/dicom"
            read = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
            assert syntax == read.file_meta.get("TransferSyntaxUID", syntax)
    assert seen == len([sop for sop in originals if not sop.startswith("sha256:")]) - without_study(
        client, originals
    )


def without_study(client: TestClient, originals: dict[str, bytes]) -> int:
    """Instances that cannot be addressed: without a study, or without a UID of their own."""
    listed = {value(one, "00080018") for one in search(client, "instances")}
    return len([sop for sop in originals if not sop.startswith("sha256:") and sop not in listed])


def test_explicit_little_endian_is_the_default(client: TestClient, originals: dict[str, bytes]) -> None:
    """Whatever is stored, the pixels are those that pydicom reads out of the original."""
    compared = 0
    for one in search(client, "instances"):
        sop, stored = value(one, "00080018"), value(one, "00083002")
        if sop.startswith("2.25.") or sop not in originals:
            continue
        response = client.get(
            value(one, "00081190"), headers={"Accept": 'multipart/related; type="application/dicom"'}
        )
        assert response.status_code == 200, (sop, stored, response.text)
        ((headers, content),) = parts(response)
        assert headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
        made = pydicom.dcmread(io.BytesIO(content))
        assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert made.SOPInstanceUID == sop
        if stored == "1.2.840.10008.1.2.1":
            assert content == originals[sop]
        before = pydicom.dcmread(io.BytesIO(originals[sop]), force=True)
        if "PixelData" not in before or before.get("BitsAllocated") == 1:
            continue
        try:
            wanted = before.pixel_array
        except Exception:  # what pydicom cannot decode it cannot judge
            continue
        if before.get("PhotometricInterpretation", "").startswith("YBR") or stored in (
            J + "50",
            J + "51",
            J + "91",
        ):
            continue
        np.testing.assert_array_equal(made.pixel_array, wanted)
        compared += 1
    assert compared > 50


def test_single_instances_need_no_multipart(client: TestClient, originals: dict[str, bytes]) -> None:
    url = f"{WEB}/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.5"
    response = client.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert (response.status_code, response.content) == (200, originals["1.2.3.1.5"])
    assert client.get(f"{WEB}/studies/1.2.3", headers={"Accept": "application/dicom"}).status_code == 406


def test_what_cannot_be_made_is_406_or_206(client: TestClient) -> None:
    url = f"{WEB}/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.5"
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={J}201'
    assert client.get(url, headers={"Accept": accept}).status_code == 406
    mixed = next(one for one in search(client, "instances") if value(one, "00083002") == J + "90")
    url = f"{WEB}/studies/{value(mixed, '0020000D')}"
    stored = {
        value(one, "00083002") for one in search(client, f"studies/{value(mixed, '0020000D')}/instances")
    }
    response = client.get(
        url, headers={"Accept": f'multipart/related; type="application/dicom"; transfer-syntax={J}90'}
    )
    assert response.status_code == (200 if stored == {J + "90"} else 206)


@pytest.mark.parametrize(
    "path",
    [
        "studies/9.9.9",
        "studies/1.2.3/series/9.9",
        "studies/1.2.3/series/1.2.3.1/instances/9.9",
        "studies/..%2f..%2fetc/metadata",
        "studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.5/frames/2",
        "studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.5/bulkdata/00100010",
        "studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.5/bulkdata/00081140/1/00081155",
    ],
)
def test_what_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(f"{WEB}/{path}").status_code == 404


# -- metadata ---------------------------------------------------------------------------------------------


def test_metadata_are_what_pydicom_reads(client: TestClient, originals: dict[str, bytes]) -> None:
    checked = 0
    for name in (
        "CT_small.dcm",
        "MR_small.dcm",
        "examples_overlay.dcm",
        "693_J2KI.dcm",
        "rtplan.dcm",
    ):
        data = pydicom.dcmread(FILES / name)
        if data.SOPInstanceUID not in originals:
            continue
        url = url_of(data)
        (model,) = client.get(f"{url}/metadata").json()
        wanted = data.to_json_dict(1024, lambda element: "bulk")
        for tag, entry in wanted.items():
            if tag.endswith("0000") or tag == "00080005":
                continue
            own = model[tag]
            assert own["vr"] == entry["vr"], (name, tag)
            if "BulkDataURI" in entry:
                assert own["BulkDataURI"] == f"{ROOT}{url}/bulkdata/{tag}"
            elif "InlineBinary" in entry:
                assert base64.b64decode(own["InlineBinary"]) == base64.b64decode(entry["InlineBinary"])
            elif entry["vr"] != "SQ":
                assert normal(own.get("Value")) == normal(entry.get("Value")), (name, tag)
        checked += 1
    assert checked >= 3


def normal(values: Any) -> Any:
    """Without the padding and the empty name parts that pydicom keeps."""
    if isinstance(values, list):
        return [normal(one) for one in values]
    if isinstance(values, dict):
        return {key: normal(one) for key, one in values.items() if normal(one)} or None
    if isinstance(values, str):
        return values.strip(" ^") or None
    return values


def test_metadata_of_a_series(client: TestClient) -> None:
    response = client.get(f"{WEB}/studies/1.2.3/series/1.2.3.1/metadata")
    assert response.headers["content-type"] == "application/dicom+json"
    models = response.json()
    assert [value(model, "00200013") for model in models] == list(range(1, 13))
    assert all(value(model, "00083002") == "1.2.840.10008.1.2.1" for model in models)
    assert all(not any(tag.startswith("0002") for tag in model) for model in models)
    assert len(client.get(f"{WEB}/studies/1.2.3/metadata").json()) == 12
    again = client.get(response.url, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_bulk_data(client: TestClient) -> None:
    data = pydicom.dcmread(FILES / "CT_small.dcm")
    url = url_of(data)
    (model,) = client.get(f"{url}/metadata").json()
    assert value(model, "00280010") == 128
    octets = {"Accept": "application/octet-stream"}
    assert client.get(model["7FE00010"]["BulkDataURI"], headers=octets).content == data.PixelData
    private = model["00431029"]["BulkDataURI"]
    ((headers, content),) = parts(client.get(private))
    assert content == data[0x0043, 0x1029].value
    assert headers["content-type"].startswith("application/octet-stream")
    assert client.get(private, headers={"Accept": "image/png"}).status_code == 406
    for bad in ("xyz", "00431029/1", "00431029/x/00431029", "/".join(["00080018"] * 99)):
        assert client.get(f"{url}/bulkdata/{bad}").status_code == 400


def test_nested_bulk_data(client: TestClient) -> None:
    data = pydicom.dcmread(FILES / "waveform_ecg.dcm")
    url = url_of(data)
    (model,) = client.get(f"{url}/metadata").json()
    uri = model["54000100"]["Value"][0]["54001010"]["BulkDataURI"]
    assert uri.endswith("/bulkdata/54000100/1/54001010")
    assert (
        client.get(uri, headers={"Accept": "application/octet-stream"}).content
        == data.WaveformSequence[0].WaveformData
    )


# -- frames -----------------------------------------------------------------------------------------------

FRAME = f"{WEB}/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.5/frames/1"


KINDS = {J + "70": "image/jpeg", J + "80": "image/jls", J + "90": "image/jp2", J + "201": "image/jphc"}


def decoded(kind: str, content: bytes) -> Any:
    import imagecodecs

    read = {
        "image/jls": imagecodecs.jpegls_decode,
        "image/jphc": imagecodecs.htj2k_decode,
        "image/jp2": imagecodecs.jpeg2k_decode,
        "image/jpeg": imagecodecs.jpeg_decode,
    }[kind]
    return np.asarray(read(content))


@pytest.mark.parametrize(
    ("accept", "kind", "syntax"),
    [
        (
            'multipart/related; type="application/octet-stream"',
            "application/octet-stream",
            "1.2.840.10008.1.2.1",
        ),
        ("*/*", "application/octet-stream", "1.2.840.10008.1.2.1"),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            "application/octet-stream",
            "1.2.840.10008.1.2.1",
        ),
        (
            'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
            "application/octet-stream",
            "1.2.840.10008.1.2.1",
        ),
        ("multipart/related; type=image/jls", "image/jls", J + "80"),
        (
            f'multipart/related; type="image/jls"; transfer-syntax="{J}80"; transfer-syntax="*"',
            "image/jls",
            J + "80",
        ),
        ("multipart/related; type=image/jphc", "image/jphc", J + "201"),
        ("multipart/related; type=image/jp2", "image/jp2", J + "90"),
        ("multipart/related; type=image/jpeg", "image/jpeg", J + "70"),
        (
            "image/webp, multipart/related; type=image/jls;q=0.4, multipart/related; type=image/jphc;q=0.9",
            "image/jphc",
            J + "201",
        ),
    ],
)
def test_frames_in_the_form_that_is_asked_for(
    client: TestClient, originals: dict[str, bytes], accept: str, kind: str, syntax: str
) -> None:
    response = client.get(FRAME, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    ((headers, content),) = parts(response)
    assert headers["content-type"] == f"{kind}; transfer-syntax={syntax}"
    data = pydicom.dcmread(io.BytesIO(originals["1.2.3.1.5"]))
    if kind == "application/octet-stream":
        assert content == data.PixelData
    else:
        np.testing.assert_array_equal(decoded(kind, content).view(np.int16), data.pixel_array)


@pytest.mark.parametrize(
    "accept",
    [
        f"multipart/related; type=image/jpeg; transfer-syntax={J}50",
        "multipart/related; type=image/jxl",
        "multipart/related; type=image/dicom-rle",
        f"multipart/related; type=application/octet-stream; transfer-syntax={J}81",
        "application/dicom+json",
        "multipart/related; type=image/jls;q=0",
    ],
)
def test_frames_in_forms_that_are_not_made(client: TestClient, accept: str) -> None:
    response = client.get(FRAME, headers={"Accept": accept})
    assert (response.status_code, response.json()["code"]) == (406, "NotAcceptable")


def test_one_frame_without_multipart(client: TestClient, originals: dict[str, bytes]) -> None:
    response = client.get(FRAME, headers={"Accept": "application/octet-stream"})
    assert response.content == pydicom.dcmread(io.BytesIO(originals["1.2.3.1.5"])).PixelData
    again = client.get(
        FRAME, headers={"Accept": "application/octet-stream", "If-None-Match": response.headers["etag"]}
    )
    assert again.status_code == 304
    other = client.get(FRAME, headers={"Accept": "image/jls", "If-None-Match": response.headers["etag"]})
    assert (other.status_code, other.headers["content-type"]) == (200, f"image/jls; transfer-syntax={J}80")


def test_stored_frames_as_they_are(client: TestClient, originals: dict[str, bytes]) -> None:
    """Of every encapsulated instance: with ``*``, and with its own syntax, the very bytes of its frames."""
    from pydicom.encaps import generate_frames

    seen = set()
    for one in search(client, "instances", includefield="00280008"):
        sop, stored = value(one, "00080018"), value(one, "00083002")
        data = pydicom.dcmread(io.BytesIO(originals.get(sop, b"")), force=True)
        if not stored.startswith(J) or "PixelData" not in data:
            continue
        count = int(data.get("NumberOfFrames", 1) or 1)
        frames = list(generate_frames(data.PixelData, number_of_frames=count))
        numbers = ",".join(str(n + 1) for n in range(min(count, 3)))
        for syntax in ("*", stored):
            accept = f'multipart/related; type="application/octet-stream"; transfer-syntax={syntax}'
            response = client.get(f"{value(one, '00081190')}/frames/{numbers}", headers={"Accept": accept})
            if response.status_code == 404:
                continue
            for (headers, content), frame in zip(parts(response), frames, strict=False):
                assert headers["content-type"].endswith(f"transfer-syntax={stored}")
                assert content == frame
                seen.add(stored)
    assert len(seen) >= 4


def test_frames_of_multi_frame_instances_in_any_order(
    client: TestClient, originals: dict[str, bytes]
) -> None:
    one = next(one for one in search(client, "instances") if one.get("00280008", {}).get("Value", [0])[0] > 5)
    data = pydicom.dcmread(io.BytesIO(originals[value(one, "00080018")]))
    response = client.get(f"{value(one, '00081190')}/frames/5,1,2", headers={"Accept": "*/*"})
    found = [np.frombuffer(content, data.pixel_array.dtype) for _, content in parts(response)]
    for words, number in zip(found, (5, 1, 2), strict=True):
        np.testing.assert_array_equal(words, data.pixel_array[number - 1].reshape(-1))


@pytest.mark.parametrize(
    "frames", ["0", "-1", "a", "1,,2", "1-3", "99999999999", ",".join(["1"] * 5000), "%00"]
)
def test_frame_lists_that_make_no_sense(client: TestClient, frames: str) -> None:
    url = FRAME.rpartition("/")[0]
    assert client.get(f"{url}/{frames}").status_code in (400, 404, 414)


def test_every_encoder_on_every_frame_that_it_takes(client: TestClient) -> None:
    """What says that it is lossless is; what cannot be coded is refused, and never answered with less."""
    made = dict.fromkeys(ENCODERS, 0)
    for one in search(client, "instances"):
        url = f"{value(one, '00081190')}/frames/1"
        plain = client.get(url, headers={"Accept": "application/octet-stream"})
        if plain.status_code != 200:
            continue
        for syntax in ENCODERS:
            accept = f"application/octet-stream; transfer-syntax={syntax}"
            response = client.get(url, headers={"Accept": accept})
            assert response.status_code in (200, 406), response.text
            if response.status_code == 406 or value(one, "00083002") == syntax or syntax == J + "50":
                continue
            words = decoded(KINDS[syntax], response.content)
            own, native = (np.frombuffer(x, np.uint8) for x in (words.tobytes(), plain.content))
            # Planes may lie otherwise; the bytes are the same ones.
            np.testing.assert_array_equal(np.sort(own), np.sort(native[: own.size]))
            made[syntax] += 1
    assert all(count > 20 for syntax, count in made.items() if syntax != J + "50")


def test_baseline_jpeg_only_where_it_is_named(client: TestClient) -> None:
    data = pydicom.dcmread(FILES / "examples_rgb_color.dcm")
    url = f"{url_of(data)}/frames/1"
    named = client.get(url, headers={"Accept": f"image/jpeg; transfer-syntax={J}50"})
    assert named.headers["content-type"] == f"image/jpeg; transfer-syntax={J}50"
    shown = np.asarray(Picture.open(io.BytesIO(named.content)).convert("RGB")).astype(int)
    assert np.abs(shown - data.pixel_array).mean() < 3
    unnamed = client.get(url, headers={"Accept": "image/jpeg"})
    assert unnamed.headers["content-type"] == f"image/jpeg; transfer-syntax={J}70"
    np.testing.assert_array_equal(decoded("image/jpeg", unnamed.content), data.pixel_array)


# -- pictures ---------------------------------------------------------------------------------------------


def picture(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return np.asarray(Picture.open(io.BytesIO(response.content)))


def test_rendered_as_its_window_says(client: TestClient, originals: dict[str, bytes]) -> None:
    url = FRAME.rpartition("/frames")[0]
    shown = picture(client.get(f"{url}/rendered", headers={"Accept": "image/png"}))
    data = pydicom.dcmread(io.BytesIO(originals["1.2.3.1.5"]))
    units = data.pixel_array.astype(float) - 1024
    # PS3.3 C.11.2.1.2.1
    wanted = np.clip(((units - (40 - 0.5)) / (400 - 1) + 0.5) * 255, 0, 255)
    assert np.abs(shown - wanted).max() <= 1
    other = picture(client.get(f"{url}/rendered?window=-600,1600,linear", headers={"Accept": "image/png"}))
    wanted = np.clip(((units - (-600 - 0.5)) / (1600 - 1) + 0.5) * 255, 0, 255)
    assert np.abs(other - wanted).max() <= 1


BAD_LOOKS = (
    *("window=1", "window=1,0", "window=a,b", "window=1,2,sigmoid", "window=1,2&window=3,4"),
    *("viewport=0,5", "viewport=1", "viewport=9,9,0,0,999,999", "viewport=99999,1"),
    *("quality=0", "nonsense=1"),
)


def test_viewport_and_quality(client: TestClient) -> None:
    url = FRAME.rpartition("/frames")[0]
    png = {"Accept": "image/png"}
    assert picture(client.get(f"{url}/rendered?viewport=16,100", headers=png)).shape == (16, 16)
    whole = picture(client.get(f"{url}/rendered", headers=png))
    part = picture(client.get(f"{url}/rendered?viewport=8,8,4,20,8,8", headers=png))
    np.testing.assert_array_equal(part, whole[20:28, 4:12])
    small = client.get(f"{url}/rendered?quality=10", headers={"Accept": "image/jpeg"})
    large = client.get(f"{url}/rendered?quality=95", headers={"Accept": "image/jpeg"})
    assert small.headers["content-type"] == "image/jpeg"
    assert len(small.content) < len(large.content)
    for bad in BAD_LOOKS:
        assert client.get(f"{url}/rendered?{bad}", headers=png).status_code == 400, bad
    assert client.get(f"{url}/rendered", headers={"Accept": "image/gif"}).status_code == 406


def test_thumbnails_of_every_level(client: TestClient) -> None:
    for path in (
        "",
        "/series/1.2.3.1",
        "/series/1.2.3.1/instances/1.2.3.1.5",
        "/series/1.2.3.1/instances/1.2.3.1.5/frames/1",
    ):
        assert picture(client.get(f"{WEB}/studies/1.2.3{path}/thumbnail")).shape == (256, 256)
    data = pydicom.dcmread(FILES / "waveform_ecg.dcm")
    assert client.get(f"{WEB}/studies/{data.StudyInstanceUID}/thumbnail").status_code == 404


# -- lossy images -----------------------------------------------------------------------------------------


def test_a_lossy_image_is_what_its_export_is(client: TestClient, archive: Archive, tmp_path: Path) -> None:
    from tilevault.workflows.export import export

    image = next(archive.search({"StudyInstanceUID": "1.8"}))
    export(archive, [image.id], tmp_path / "out", format="dicom")
    exported = {pydicom.dcmread(path).SOPInstanceUID: path for path in (tmp_path / "out").rglob("*.dcm")}
    found = search(client, "studies/1.8/instances")
    assert uids(found, "00080018") == set(exported)
    for one in found:
        url = value(one, "00081190")
        ((_, content),) = parts(client.get(url, headers={"Accept": STORED}))
        assert content == exported[value(one, "00080018")].read_bytes()
        (model,) = client.get(f"{url}/metadata").json()
        assert value(model, "00282110") == "01"
        assert value(model, "00080008") == "DERIVED"
        assert value(model, "00080018") == value(one, "00080018")
        assert value(model["00082112"]["Value"][0], "00081155").startswith("1.8.1.")
        ((_, frame),) = parts(client.get(f"{url}/frames/1"))
        assert frame == pydicom.dcmread(exported[value(one, "00080018")]).PixelData


def test_a_lossy_copy_beside_its_original_is_seen_when_asked_for(client: TestClient) -> None:
    assert uids(search(client, "studies/1.9/instances"), "00080018") == {"1.9.1.1", "1.9.1.2"}
    assert len(client.get(f"{WEB}/studies/1.9/metadata").json()) == 2
    both = search(client, "studies/1.9/instances", lossycopies="true")
    copies = [one for one in both if value(one, "00080018").startswith("2.25.")]
    assert (len(both), len(copies)) == (4, 2)
    (named,) = search(client, "instances", SOPInstanceUID=value(copies[0], "00080018"))
    (model,) = client.get(value(named, "00081190") + "/metadata").json()
    assert value(model, "00282114") == "TILEVAULT_LIC1"


# -- damage -----------------------------------------------------------------------------------------------


def test_damage_is_an_error_and_never_pixels(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEVAULT_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(archive.path, copy)
    damaged = Archive.open(copy)
    image = next(damaged.search({"StudyInstanceUID": "1.2.3"}))
    shard = next(
        path for path in (image.path / "0").rglob("*") if path.is_file() and path.name != "zarr.json"
    )
    data = bytearray(shard.read_bytes())
    for at in range(0, len(data) - 200, 50):
        data[at] ^= 0x10
    shard.chmod(0o600)
    shard.write_bytes(bytes(data))
    with TestClient(create_app(Settings(str(copy))), base_url=ROOT) as own:
        for path in ("", "/frames/1", "/rendered", "/thumbnail"):
            response = own.get(f"{FRAME.rpartition('/frames')[0]}{path}", headers={"Accept": "*/*"})
            if path == "/thumbnail" and response.status_code == 200:
                continue  # made of a coarse level of its own, which is sound
            assert response.status_code == 500, path
            assert response.json()["code"] == "TileCorrupt"
        assert own.get(f"{WEB}/studies/1.2.3/metadata").status_code == 200


def test_large_instances_are_sent_as_they_are_made(
    client: TestClient, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing larger than a few pieces is held; stored and converted files are the same as when it is."""
    monkeypatch.setattr(wado, "WHOLE", 1000)
    monkeypatch.setattr(instances_module, "SPOOLED", 1000)
    response = client.get(f"{WEB}/studies/1.2.3", headers={"Accept": STORED})
    assert "content-length" not in response.headers
    sent = [content for _, content in parts(response)]
    assert len(sent) == 12
    assert set(sent) <= set(originals.values())
    instance = FRAME.rpartition("/frames")[0]
    single = client.get(instance, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert int(single.headers["content-length"]) == len(single.content)
    assert single.content in originals.values()
    for one in search(client, "instances"):
        both = client.get(value(one, "00081190"), headers={"Accept": EXPLICIT})
        if both.status_code == 200:
            ((_, content),) = parts(both)
            read = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
            assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_head_says_what_get_would_and_makes_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wado, "WHOLE", 1000)
    made: list[Any] = []
    real = wado._in_threads

    async def never(services: Any, pieces: Any) -> Any:
        made.append("begun")
        async for piece in real(services, pieces):
            yield piece

    monkeypatch.setattr(wado, "_in_threads", never)
    address = f"{WEB}/studies/1.2.3"
    asked = client.head(address, headers={"Accept": STORED})
    assert (asked.status_code, asked.content, made) == (200, b"", [])
    got = client.get(address, headers={"Accept": STORED})
    assert made == ["begun"]
    kinds = {one.headers["content-type"].partition("boundary")[0] for one in (asked, got)}
    assert len(kinds) == 1


def test_json_of_every_answer_is_json(client: TestClient) -> None:
    """No NaN, no bytes: strict parsers read all metadata."""

    def refuse(text: str) -> Any:
        raise AssertionError(text)

    for study in search(client, "studies"):
        response = client.get(value(study, "00081190") + "/metadata")
        assert json.loads(response.content, parse_constant=refuse)
