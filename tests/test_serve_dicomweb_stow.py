"""STOW-RS: what comes in, what does not, and what hostile bodies cannot do."""

import json
import os
import random
import resource
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from starlette.testclient import TestClient

from dicom_builder import DEFLATED, Builder, image, part10
from dicomweb_parts import STOW_TYPE, ct_slice, multipart, parts
from tilevault import Archive
from tilevault.codecs.errors import StoreUnavailable
from tilevault.workflows.serve.access import Principal
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.dicomweb import multipart as multipart_module
from tilevault.workflows.serve.dicomweb import stow as stow_module
from tilevault.workflows.serve.dicomweb.intake import MOST_KILLED, Child, Children, examine
from tilevault.workflows.serve.dicomweb.series import SeriesOwners
from tilevault.workflows.serve.dicomweb.stow import reason_code
from tilevault.workflows.serve.settings import Limits, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

WEB = "/dicom-web"
ROOT = "http://localhost:8480"
FILES = Path(pydicom.__file__).parent / "data" / "test_files"
Post = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILEVAULT_CACHE", str(tmp_path / "cache"))
    Archive.create(tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture
def client(path: Path) -> Iterator[TestClient]:
    settings = Settings(str(path), limits=Limits(upload_bytes=32 << 20))
    with TestClient(create_app(settings), base_url=ROOT) as made:
        yield made
    staging = path / ".staging"
    assert not list(staging.glob("stow-*"))


@pytest.fixture
def post(client: TestClient) -> Post:
    def send(contents: list[bytes], path: str = "/studies", **headers: str) -> Any:
        given = {"Content-Type": STOW_TYPE, **headers}
        return client.post(WEB + path, content=multipart(contents), headers=given)

    return send


def stored(answer: Any) -> list[str]:
    items = answer.json().get("00081199", {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


def failed(answer: Any) -> dict[str | None, int]:
    body = answer.json()
    items = [*body.get("00081198", {}).get("Value", []), *body.get("0008119A", {}).get("Value", [])]
    return {item.get("00081155", {}).get("Value", [None])[0]: item["00081197"]["Value"][0] for item in items}


# -- what is stored ---------------------------------------------------------------------------------------


def test_stored_found_and_the_same_bytes(client: TestClient, post: Post, path: Path) -> None:
    contents = [ct_slice(n) for n in (1, 2, 3)]
    answer = post(contents)
    assert answer.status_code == 200
    assert stored(answer) == ["1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.3"]
    assert answer.json()["00081190"]["Value"] == [f"{ROOT}{WEB}/studies/1.2.3"]
    assert len(client.get(f"{WEB}/studies/1.2.3/instances").json()) == 3
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    assert [content for _, content in parts(client.get(f"{WEB}/studies/1.2.3", headers=accept))] == contents
    (image_,) = Archive.open(path).values()
    assert [file.name for file in image_.source.files] == [f"1.2.3.1.{n}.dcm" for n in (1, 2, 3)]
    assert not image_.check("pixels").findings


def test_late_instances_join_their_series(client: TestClient, post: Post, path: Path) -> None:
    post([ct_slice(1), ct_slice(2)])
    assert post([ct_slice(3), ct_slice(2)], "/studies/1.2.3").status_code == 200
    (image_,) = Archive.open(path).values()
    assert image_.shape[0] == 3
    assert len(client.get(f"{WEB}/studies/1.2.3/metadata").json()) == 3


def test_the_same_again_changes_nothing(post: Post, path: Path) -> None:
    post([ct_slice(1)])
    before = sorted(p for p in path.rglob("*") if ".staging" not in p.parts)
    again = post([ct_slice(1), ct_slice(1)])
    assert (again.status_code, stored(again)) == (200, ["1.2.3.1.1"] * 2)
    assert sorted(p for p in path.rglob("*") if ".staging" not in p.parts) == before


def test_an_archive_that_is_named_by_a_relative_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children work in a folder of their own."""
    monkeypatch.chdir(path.parent)
    with TestClient(create_app(Settings(path.name)), base_url=ROOT) as client:
        headers = {"Content-Type": STOW_TYPE}
        answer = client.post(f"{WEB}/studies", content=multipart([ct_slice(1)]), headers=headers)
    assert (answer.status_code, stored(answer)) == (200, ["1.2.3.1.1"])
    assert len(Archive.open(path)) == 1


def test_what_a_header_leaves_empty_is_no_null_in_searches(client: TestClient, post: Post) -> None:
    """OHIF reads into the first value of what has any, and asks modalities how many they are."""
    post([ct_slice(1, PatientName="^^", Modality="")])
    (study,) = client.get(f"{WEB}/studies").json()
    assert study["00100010"] == {"vr": "PN"}
    assert "00080061" not in study
    (header,) = client.get(f"{WEB}/studies/1.2.3/metadata").json()
    assert header["00100010"] == {"vr": "PN"}


def test_other_content_of_the_same_uid_is_a_conflict(post: Post) -> None:
    post([ct_slice(1)])
    answer = post([ct_slice(1, PatientName="Other^Name"), ct_slice(2)])
    assert answer.status_code == 202
    assert stored(answer) == ["1.2.3.1.2"]
    assert failed(answer) == {"1.2.3.1.1": 0x0111}
    assert post([ct_slice(1, PatientName="Other^Name")]).status_code == 409
    both = post([ct_slice(7), ct_slice(7, PatientName="Other^Name")])
    assert both.status_code == 202
    assert (stored(both), failed(both)) == (["1.2.3.1.7"], {"1.2.3.1.7": 0x0111})


def test_one_study_only_where_the_path_names_it(post: Post) -> None:
    answer = post([ct_slice(1), ct_slice(1, study="1.5", series="1.5.1")], "/studies/1.5")
    assert answer.status_code == 202
    assert (stored(answer), failed(answer)) == (["1.5.1.1"], {"1.2.3.1.1": 0xA900})


def test_real_files_of_every_kind(client: TestClient, post: Post) -> None:
    names = ("CT_small.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm", "test-SR.dcm", "rtdose.dcm", "image_dfl.dcm")
    contents = {name: (FILES / name).read_bytes() for name in names}
    answer = post(list(contents.values()))
    assert answer.status_code == 200, answer.json()
    for item in answer.json()["00081199"]["Value"]:
        url = item["00081190"]["Value"][0]
        response = client.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert response.content in contents.values()


def test_what_is_unsound_fails_by_itself(post: Post) -> None:
    sound = ct_slice(1)
    bomb = part10(Builder().element(0x00081030, "LO", b"x") + bytes(200 << 20), DEFLATED)
    huge = image(bytes(48), Rows=60000, Columns=60000, SOPInstanceUID="1.2.3.88")
    answer = post(
        [sound, b"no DICOM at all", sound[:-100], bomb, huge, image(bytes(48), SOPInstanceUID="../../x")]
    )
    assert answer.status_code == 202
    assert stored(answer) == ["1.2.3.1.1"]
    reasons = [item["00081197"]["Value"][0] for item in answer.json()["0008119A"]["Value"]]
    assert len(reasons) == 5
    assert set(reasons) <= {0xC000, 0xA700}


@pytest.mark.parametrize(
    "uid",
    ["../../etc/passwd", "..", "1.2/../../3", "1" * 65, "1.2\x00.3", "'; DROP TABLE images; --", "1.2.é"],
)
def test_uids_that_are_none(post: Post, path: Path, uid: str) -> None:
    before = set(path.parent.rglob("*"))
    encoded = uid.encode("latin-1")
    answer = post([image(bytes(48), SOPInstanceUID=encoded + b"\0" * (len(encoded) % 2))])
    if uid == "..":
        # Made of digits and dots, as the scanner wants them: kept, under a name of ours.
        (image_,) = Archive.open(path).values()
        assert image_.source.files[0].name == "instance-000000.dcm"
        assert answer.status_code == 200
        return
    assert answer.status_code == 409
    new = set(path.parent.rglob("*")) - before
    assert all(path in p.parents or "cache" in p.parts for p in new)


# -- who may ----------------------------------------------------------------------------------------------


def test_only_studies_that_may_be_written(
    client: TestClient, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = client.app.state.services  # type: ignore[attr-defined] # starlette's own
    ward = Principal("ward", frozenset({"read", "write", "search"}), frozenset({"study:1.2.3"}))
    post([ct_slice(1, study="1.6", series="1.6.1")])
    monkeypatch.setattr(services, "authenticate", lambda request: ward)
    answer = post([ct_slice(1), ct_slice(1, study="1.5", series="1.5.1")])
    assert (stored(answer), failed(answer)) == (["1.2.3.1.1"], {"1.5.1.1": 0x0124})
    assert [one["0020000D"]["Value"][0] for one in client.get(f"{WEB}/studies").json()] == ["1.2.3"]
    assert client.get(f"{WEB}/studies/1.6/metadata").status_code == 404
    assert client.get(f"{WEB}/studies/1.7/metadata").status_code == 404
    assert client.get(f"{WEB}/studies/1.6/series").status_code in (204, 404)
    reader = Principal("reader", frozenset({"read", "search"}), frozenset({"*"}))
    monkeypatch.setattr(services, "authenticate", lambda request: reader)
    assert post([ct_slice(9)]).status_code == 403


def test_nobody_joins_a_series_of_a_study_that_is_not_his(
    client: TestClient, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice of one's own study with the UID of another study's series would open that one's image."""
    services = client.app.state.services  # type: ignore[attr-defined] # starlette's own
    post([ct_slice(k, study="1.6", series="1.6.1") for k in (5, 6)])
    (other,) = client.get("/api/images").json()["images"]
    ward = Principal("ward", frozenset({"read", "write", "search"}), frozenset({"study:1.2.3"}))
    everything = services.authenticate
    monkeypatch.setattr(services, "authenticate", lambda request: ward)
    sent = ct_slice(1, study="1.2.3", series="1.6.1")
    answer = post([sent, ct_slice(1)])
    assert (stored(answer), failed(answer)) == (["1.2.3.1.1"], {"1.6.1.1": 0x0124})
    for path in ("", "/tiles/0/0/0.png", "/files/0"):
        assert client.get(f"/api/images/{other['id']}{path}").status_code == 404
    monkeypatch.setattr(services, "authenticate", everything)
    assert failed(post([sent])) == {"1.6.1.1": 0xA900}
    both = post([ct_slice(1, study="1.7", series="1.7.1"), ct_slice(2, study="1.8", series="1.7.1")])
    assert (stored(both), failed(both)) == (["1.7.1.1"], {"1.7.1.2": 0xA900})
    assert stored(post([ct_slice(7, study="1.6", series="1.6.1")])) == ["1.6.1.7"]


def test_the_access_log_names_each_instance_that_is_stored(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with TestClient(create_app(Settings(str(path), access_log=log)), base_url=ROOT) as client:
        headers = {"Content-Type": STOW_TYPE}
        answer = client.post(
            WEB + "/studies", content=multipart([ct_slice(1), b"no", ct_slice(2)]), headers=headers
        )
    assert answer.status_code == 202
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    named = [(one["study"], one["series"], one["instance"]) for one in entries]
    assert sorted(named[:-1]) == [("1.2.3", "1.2.3.1", "1.2.3.1.1"), ("1.2.3", "1.2.3.1", "1.2.3.1.2")]
    assert named[-1] == (None, None, None)
    assert {(one["action"], one["status"], one["method"]) for one in entries} == {("write", 202, "POST")}


def test_a_series_belongs_to_the_study_that_is_being_stored(client: TestClient) -> None:
    owners = SeriesOwners(client.app.state.services)  # type: ignore[attr-defined] # starlette's own
    with owners.claims() as first, owners.claims() as second:
        assert first.owner("1.9.1", "1.9") == "1.9"
        assert second.owner("1.9.1", "1.2") == "1.9"
        assert first.owner("1.9.1", "1.2") == "1.9"
    with owners.claims() as later:
        assert later.owner("1.9.1", "1.2") == "1.2"


def test_reading_goes_on_while_much_is_stored(
    client: TestClient, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storing waits for children, for minutes; the threads that read are others."""
    storing, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> dict[str, Any]:
        storing.release()
        go_on.wait(30)
        return {"code": "StoreFull"}

    monkeypatch.setattr(stow_module, "store", slow)
    senders = [threading.Thread(target=post, args=([ct_slice(k)],)) for k in (1, 2)]
    for sender in senders:
        sender.start()
    try:
        assert all(storing.acquire(timeout=60) for _ in senders)
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(client.get("/api/images").status_code))
        reader.start()
        reader.join(10)
        assert found == [200]
    finally:
        go_on.set()
        for sender in senders:
            sender.join(30)


def test_the_disk_is_not_filled(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=200 << 20))
    answer = post([ct_slice(1)])
    assert (answer.status_code, answer.json()["code"]) == (507, "StoreFull")


# -- bodies that are none ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("application/dicom", ct_slice(1), 415),
        ('multipart/related; type="application/dicom+xml"; boundary=XyZ', b"", 415),
        ('multipart/form-data; type="application/dicom"; boundary=XyZ', multipart([b""]), 415),
        ('multipart/related; type="application/dicom"', multipart([b"x"]), 400),
        ('multipart/related; type="application/dicom"; boundary=' + "b" * 257, multipart([b"x"]), 400),
        ('multipart/related; type="application/dicom"; boundary="a\x7fb"', multipart([b"x"]), 400),
        (STOW_TYPE, b"", 422),
        (STOW_TYPE, b"--XyZ--\r\n", 400),
        (STOW_TYPE, multipart([ct_slice(1)], boundary="Other"), 422),
        (STOW_TYPE, multipart([ct_slice(1)])[:-8], 422),
        (STOW_TYPE, multipart([ct_slice(1)])[:2000], 422),
        (STOW_TYPE, b"\r\n--XyZ trailing text\r\n\r\nx\r\n--XyZ--", 400),
        (STOW_TYPE, b"\r\n--XyZ\r\nno colon here\r\n\r\nx\r\n--XyZ--", 400),
        (STOW_TYPE, b"\r\n--XyZ\r\nA: " + b"a" * 9000 + b"\r\n\r\nx\r\n--XyZ--", 413),
        (STOW_TYPE, b"\r\n--XyZ\r\n" + b"A: b\r\n" * 2000 + b"\r\nx\r\n--XyZ--", 413),
        (STOW_TYPE, b"p" * (65 << 10) + multipart([b"x"]), 413),
        (STOW_TYPE, multipart([b"x"]) + b"e" * (65 << 10), 413),
        (STOW_TYPE, bytes(33 << 20), 413),
    ],
)
def test_bodies_that_are_refused(client: TestClient, kind: str, body: bytes, status: int) -> None:
    answer = client.post(f"{WEB}/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_that_is_too_long_is_not_read_to_its_end(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"\r\n--XyZ\r\n\r\n"
        while sent < 1 << 30:
            sent += 1 << 20
            yield bytes(1 << 20)

    answer = client.post(f"{WEB}/studies", content=endless(), headers={"Content-Type": STOW_TYPE})
    assert answer.status_code == 413


def test_what_is_encoded_or_answered_otherwise(post: Post) -> None:
    assert post([ct_slice(1)], **{"Content-Encoding": "gzip"}).status_code in (400, 415)
    assert post([ct_slice(1)], Accept="application/dicom+xml").status_code == 406
    assert post([ct_slice(1)], Accept="application/dicom+json").status_code == 200


def test_a_hundred_thousand_tiny_parts(client: TestClient, path: Path) -> None:
    body = multipart([b""] * (multipart_module.MAX_PARTS + 1))
    began = time.monotonic()
    answer = client.post(f"{WEB}/studies", content=body, headers={"Content-Type": STOW_TYPE})
    assert answer.status_code == 413
    assert time.monotonic() - began < 60


def test_random_bodies_never_crash_it(client: TestClient) -> None:
    whole = multipart([ct_slice(1), b"x" * 50])
    for seed in range(40):
        rng = random.Random(seed)
        body = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(8)):
            if body:
                body[rng.randrange(min(len(body), 200))] = rng.choice(b"\r\n-XyZ: \0\xff")
        answer = client.post(f"{WEB}/studies", content=bytes(body), headers={"Content-Type": STOW_TYPE})
        assert answer.status_code in (200, 202, 400, 409, 413, 422)


# -- the children -----------------------------------------------------------------------------------------

CONFINED = """
import os, socket, subprocess, sys
from tilevault.workflows.serve.dicomweb.confine import confine, more_cpu
held = confine(256 << 20, writes=False)
what = sys.argv[1]
try:
    if what == "network": socket.create_connection(("127.0.0.1", 9))
    if what == "socket": socket.socketpair()
    if what == "program": os.execv("/bin/true", ["true"])
    if what == "file": os.write(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), b"x" * 100)
    if what == "memory": bytearray(1 << 30)
    if what == "cpu":
        more_cpu(1)
        while True: pass
except (OSError, MemoryError) as error:
    print(type(error).__name__, getattr(error, "errno", None)); sys.exit(3)
print("done"); sys.exit(0)
"""


@pytest.mark.parametrize("what", ["network", "socket", "program", "file", "memory", "cpu"])
def test_what_a_child_cannot_do(what: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, what, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert "done" not in done.stdout
    if what in ("network", "socket", "program"):
        assert done.stdout.split() == ["PermissionError", "13"], done.stderr
    assert not (tmp_path / "file").exists() or (tmp_path / "file").read_text() == ""


def test_a_child_that_dies_fails_on_its_file_and_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"{number}").write_bytes(ct_slice(number))
    children = Children()
    answers = Child.answer
    calls = 0

    def dying(self: Child, seconds: float) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # greeting, first file; now it is at the second one
            self._process.kill()
            self._process.wait()
            self._buffer = b""
            return None
        return answers(self, seconds)

    monkeypatch.setattr(Child, "answer", dying)
    found = list(examine(children, tmp_path, ["1", "2", "3"]))
    children.close()
    assert [one["name"] for one in found] == ["1", "2", "3"]
    assert [one.get("code") for one in found] == [None, "LimitExceeded", None]


def test_a_request_of_bombs_costs_a_few_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take a minute; a hundred thousand of them would take weeks."""
    taken: list[Any] = []

    class Dying:
        def ask(self, request: Any) -> bool:
            return True

        def answer(self, seconds: float) -> None:
            return None

    class Nursery:
        def take(self, role: str) -> Any:
            taken.append(Dying())
            return taken[-1]

        def done(self, child: Any) -> None:
            assert child is taken[-1]

    names = [str(k) for k in range(1000)]
    found = list(examine(Nursery(), tmp_path, names))  # type: ignore[arg-type] # as far as it is used
    assert [one["name"] for one in found] == names
    assert {one["code"] for one in found} == {"LimitExceeded"}
    assert len(taken) == MOST_KILLED


def test_children_end_with_the_server(tmp_path: Path) -> None:
    """One that is at work, too: whoever waits for it is told at once, and not after a quarter of an hour."""
    children = Children()
    child = children.take("examine")
    assert child.answer(60) is not None
    waiting = threading.Thread(target=child.answer, args=(600,))
    waiting.start()
    children.close()
    waiting.join(20)
    assert not waiting.is_alive()
    children.done(child)
    with pytest.raises(StoreUnavailable):
        children.take("examine")


def test_descriptors_beyond_a_thousand_are_waited_for() -> None:
    """As in a server with many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1400:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    children = Children()
    try:
        child = children.take("examine")
        assert child.answer(60) is not None
        children.done(child)
    finally:
        children.close()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_a_child_says_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").write_bytes(ct_slice(1))
    lies: list[Any] = [
        {"name": "other"},
        {"name": "1", "sop": 5, "series": "1", "sha256": "x"},
        {"name": "1", "series": ["1"], "sop": "1.2", "sha256": "x"},
    ]
    answers = Child.answer
    for lie in lies:
        turn = iter([None, lie])

        def lying(self: Child, seconds: float, turn: Any = turn) -> Any:
            forged = next(turn, {})
            return answers(self, seconds) if forged is None else forged

        monkeypatch.setattr(Child, "answer", lying)
        children = Children()
        (found,) = examine(children, tmp_path, ["1"])
        children.close()
        assert found["code"] in ("LimitExceeded", "InternalError")


def test_bombs_die_in_the_child(tmp_path: Path) -> None:
    """A deflated data set, and a codec stream, that would take gigabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = Builder().element(0x0020000D, "UI", "1.2")
    body = head + struct.pack("<HH2sHI", 0x0043, 0x1029, b"OB", 0, 0xFFFFFFF0)
    packed = (
        packer.compress(body) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    )
    plain = part10(b"", DEFLATED)
    (tmp_path / "bomb").write_bytes(plain.rstrip(b"\x03\x00") + packed)
    (tmp_path / "sound").write_bytes(ct_slice(1))
    children = Children()
    began = time.monotonic()
    found = {one["name"]: one for one in examine(children, tmp_path, ["bomb", "sound"])}
    children.close()
    assert found["bomb"]["code"] in ("LimitExceeded", "InconsistentHeader", "TruncatedSource")
    assert found["sound"]["sop"] == "1.2.3.1.1"
    assert time.monotonic() - began < 60


def test_every_code_has_a_reason() -> None:
    from tilevault.codecs import errors

    for name in errors.__all__:
        assert 0 < reason_code(name) < 1 << 16
    assert json.dumps({"reason": reason_code(None)}) == '{"reason": 272}'
