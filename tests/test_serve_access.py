"""Who may do what: every route of the router with every role, tokens, scopes, the access log."""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import collection
import tilevault
from tilevault import Archive
from tilevault.codecs.errors import AccessDenied, Conflict, ImageNotFound, InvalidRequest, NotAuthenticated
from tilevault.workflows.serve import app as app_module
from tilevault.workflows.serve.access import ACTIONS, Principal
from tilevault.workflows.serve.app import MODULES, create_app
from tilevault.workflows.serve.settings import Settings
from tilevault.workflows.serve.tokens import Token, Tokens, add_token, digest_of, read_tokens, revoke_token

testclient = pytest.importorskip("starlette.testclient")

UNGUARDED = {"/health"}
ABSENT = "0" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("access")
    for number, patient in enumerate(("A", "B")):
        collection.write_ct_series(folder / patient, slices=2, side=64, seed=number, patient=patient)
    tilevault.add([folder / "A", folder / "B"], folder / "archive")
    return folder


@pytest.fixture(scope="module")
def images(folder: Path) -> dict[str, Any]:
    return {image.summary["PatientID"]: image for image in Archive.open(folder / "archive").values()}


@pytest.fixture(scope="module")
def secrets(folder: Path, images: dict[str, Any]) -> dict[str, str | None]:
    """Roles -> tokens."""
    path = folder / "tokens.json"
    study = f"study:{images['A'].summary['StudyInstanceUID']}"
    roles: dict[str, tuple[tuple[str, ...], str]] = {
        "all": (ACTIONS, "*"),
        "reader": (("read",), "*"),
        "searcher": (("search",), "*"),
        "writer": (("write",), "*"),
        "study A": (("read", "search"), study),
        "image A": (("read",), f"image:{images['A'].id}"),
        "other": (ACTIONS, "study:1.2.3.4"),
    }
    made: dict[str, str | None] = {
        role: add_token(path, role, actions, [scope], None)[0] for role, (actions, scope) in roles.items()
    }
    made["expired"] = add_token(path, "expired", ACTIONS, ["*"], 1)[0]
    entries = json.loads(path.read_text())
    past = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    entries["tokens"][-1]["expires"] = past
    path.write_text(json.dumps(entries))
    return {**made, "nobody": None, "unknown": "x" * 43}


@pytest.fixture(scope="module")
def app(folder: Path, secrets: dict[str, str | None]) -> Any:
    log = folder / "access.jsonl"
    return create_app(Settings(str(folder / "archive"), tokens=folder / "tokens.json", access_log=log))


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[Any]:
    with testclient.TestClient(app, base_url="http://localhost") as client:
        yield client


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "access.jsonl").read_text().splitlines()]


def filled(path: str, image: Any) -> str:
    """A route's pattern with something in the place of each parameter."""
    values = {
        "id": image.id,
        "study": image.summary["StudyInstanceUID"],
        "series": image.summary["SeriesInstanceUID"],
        "format": "png",
        "tms": "WebMercatorQuad",
        "measure": "bits_per_sample",
        "path": "index.html",
    }
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda m: str(values.get(m[1], "0")), path)


def routes(app: Any) -> list[Any]:
    return [route for route in app.routes if route.path not in UNGUARDED]


# -- the matrix ---------------------------------------------------------------------------------------------


def test_every_route_but_health_is_guarded(app: Any) -> None:
    open_routes = {route.path for route in app.routes if not hasattr(route.endpoint, "action")}
    assert open_routes == UNGUARDED
    places = {route.path for route in routes(app)}
    for module in MODULES:
        own = {route.path for route in module.routes(app.state.services)}
        assert own, module
        assert own <= places, module
    # Every module that has routes is among them, or gathered by one that is.
    folder = Path(app_module.__file__).parent
    having = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.py")
        if "\ndef routes(" in path.read_text()
    }
    gathered = {m.__name__.partition(".serve.")[2].replace(".", "/") for m in MODULES}
    assert having == gathered
    assert {route.endpoint.action for route in routes(app)} <= set(ACTIONS)


CATALOGUE = {
    "/",
    "/viewer/{name}",
    "/api/images",
    "/dicom-web/studies",
    "/dicom-web/series",
    "/dicom-web/instances",
}
"""Routes about everything: what they answer is filtered, which is tested below."""


def test_every_other_route_is_about_one_image_or_study(app: Any, images: dict[str, Any]) -> None:
    """Or the matrix would not see what it lets out."""
    for route in routes(app):
        named = set(re.findall(r"\{(\w+)", route.path)) & {"id", "study"}
        assert (len(named) == 1) == (route.path not in CATALOGUE), route.path
        image = images["A"]
        given = {"id": image.id, "study": image.summary["StudyInstanceUID"]}
        request = SimpleNamespace(
            path_params={**dict.fromkeys(re.findall(r"\{(\w+)", route.path), "0"), **given}
        )
        about = route.endpoint.subject(request)
        assert about.image == (given["id"] if "id" in named else None), route.path
        assert about.study == (given["study"] if "study" in named else None), route.path


@pytest.mark.parametrize("role", ["nobody", "unknown", "expired"])
def test_nobody_gets_in_without_a_token(
    app: Any, client: Any, images: dict[str, Any], secrets: dict[str, str | None], role: str
) -> None:
    for route in routes(app):
        for method in sorted(route.methods):
            headers = {**bearer(secrets[role]), "If-None-Match": "*"}
            answer = client.request(method, filled(route.path, images["A"]), headers=headers)
            assert answer.status_code == 401, (method, route.path)
            assert answer.headers["www-authenticate"].startswith("Basic ")
            if method != "HEAD":
                assert answer.json()["code"] == "NotAuthenticated"


@pytest.mark.parametrize("role", ["all", "reader", "searcher", "writer", "study A", "image A", "other"])
def test_roles_by_routes(
    app: Any, client: Any, images: dict[str, Any], secrets: dict[str, str | None], role: str
) -> None:
    """What a role may not do is 403 where it may know of it, and else 404 as for what does not exist."""
    principal = {t.name: t.principal for t in read_tokens(app.state.services.settings.tokens)}[role]
    for route in routes(app):
        action = route.endpoint.action
        for patient in ("A", "B"):
            image, address = images[patient], filled(route.path, images[patient])
            study = image.summary["StudyInstanceUID"]
            about_one = image.id in address or study in address
            method = "GET" if "GET" in route.methods else sorted(route.methods)[0]
            answer = client.request(method, address, headers=bearer(secrets[role]))
            where = (role, method, address, answer.status_code)
            by_image = image.id in address
            allowed = principal.may(action, image.id if by_image else None, study)
            knows = any(principal.may(a, image.id if by_image else None, study) for a in ACTIONS)
            if action not in principal.actions or (about_one and not allowed and knows):
                assert answer.status_code == 403, where
            elif about_one and not allowed:
                assert answer.status_code == 404, where
                absent = client.request(
                    method,
                    address.replace(image.id, ABSENT).replace(study, "1.9.9"),
                    headers=bearer(secrets[role]),
                )
                assert answer.content == absent.content, where
                assert answer.headers.items() == absent.headers.items(), where
            else:
                assert answer.status_code not in (401, 403, 500), where


def test_searches_show_what_may_be_read(
    client: Any, images: dict[str, Any], secrets: dict[str, str | None]
) -> None:
    def seen(role: str) -> set[str]:
        found = client.get("/api/images", headers=bearer(secrets[role])).json()
        assert found["total"] == len(found["images"])
        return {one["id"] for one in found["images"]}

    assert seen("all") == {image.id for image in images.values()}
    assert seen("study A") == {images["A"].id}
    assert seen("other") == set()


def test_searches_of_dicomweb_count_what_may_be_read(
    client: Any, images: dict[str, Any], secrets: dict[str, str | None]
) -> None:
    headers = bearer(secrets["study A"])
    (study,) = client.get("/dicom-web/studies", headers=headers).json()
    assert study["0020000D"]["Value"] == [images["A"].summary["StudyInstanceUID"]]
    more = client.get("/dicom-web/instances?limit=1", headers=headers)
    assert len(more.json()) == 1
    assert "There are 1 additional" in more.headers["warning"]
    assert client.get("/dicom-web/studies?PatientID=B", headers=headers).status_code == 204
    assert client.get("/dicom-web/studies?PatientID=B", headers=bearer(secrets["all"])).status_code == 200
    assert client.get("/dicom-web/studies", headers=bearer(secrets["other"])).status_code == 204


def test_related_copies_are_told_of_to_those_who_may_read_them(tmp_path: Path) -> None:
    collection.write_ct_series(tmp_path / "in", slices=2, side=64, seed=1, patient="C")
    tilevault.add([tmp_path / "in"], tmp_path / "archive")
    tilevault.add([tmp_path / "in"], tmp_path / "archive", lossy="max-error=3")
    found = Archive.open(tmp_path / "archive").values()
    (exact,) = [image.id for image in found if image.fidelity == "exact"]
    path = tmp_path / "tokens.json"
    one, everyone = (add_token(path, s, ACTIONS, [s], None)[0] for s in (f"image:{exact}", "*"))
    app = create_app(Settings(str(tmp_path / "archive"), tokens=path))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        related = [
            client.get(f"/api/images/{exact}", headers=bearer(token)).json()["related"]
            for token in (everyone, one)
        ]
    assert [len(copies) for copies in related] == [1, 0]


def test_an_etag_opens_nothing(client: Any, images: dict[str, Any], secrets: dict[str, str | None]) -> None:
    tile = f"/api/images/{images['B'].id}/tiles/0/0/0.png"
    etag = client.get(tile, headers=bearer(secrets["all"])).headers["etag"]
    known = {"If-None-Match": etag}
    assert client.get(tile, headers={**bearer(secrets["all"]), **known}).status_code == 304
    assert client.get(tile, headers={**bearer(secrets["study A"]), **known}).status_code == 404
    assert client.get(tile, headers=known).status_code == 401


def test_a_browser_gives_the_token_as_a_password(
    client: Any, images: dict[str, Any], secrets: dict[str, str | None]
) -> None:
    address = f"/api/images/{images['A'].id}"
    assert client.get(address, auth=("anybody", secrets["reader"])).status_code == 200
    assert client.get(address, auth=("anybody", "wrong")).status_code == 401
    for header in (
        "Basic !!!",
        "Basic /w==",
        "Digest x",
        "Bearer",
        "",
        "Bearer " + "x" * 5000,
        "Bearer \udc80",
    ):
        raw = header.encode("utf-8", "surrogateescape")
        assert client.get(address, headers={b"authorization": raw}).status_code == 401, header


# -- the access log -----------------------------------------------------------------------------------------


def test_the_log_says_who_read_what(
    client: Any, folder: Path, images: dict[str, Any], secrets: dict[str, str | None]
) -> None:
    before = len(entries(folder))
    address = f"/api/images/{images['A'].id}/tiles/0/0/0.png?window=40,400"
    answer = client.get(address, headers=bearer(secrets["study A"]))
    client.get(address)
    read, refused = entries(folder)[before:]
    assert read["principal"] == "study A"
    assert (read["action"], read["image"], read["status"]) == ("read", images["A"].id, 200)
    assert read["route"] == "/api/images/{id}/tiles/{level:int}/{row:int}/{column:int}.{format}"
    assert read["bytes"] == len(answer.content)
    assert (refused["principal"], refused["status"]) == (None, 401)
    assert abs(read["time"] - time.time()) < 60
    text = (folder / "access.jsonl").read_text()
    assert "window" not in text
    assert not [token for token in secrets.values() if token and token in text]
    assert (folder / "access.jsonl").stat().st_mode & 0o077 == 0


def test_the_log_says_which_instance_was_read(
    client: Any, folder: Path, images: dict[str, Any], secrets: dict[str, str | None]
) -> None:
    headers = bearer(secrets["study A"])
    found = client.get("/dicom-web/instances", headers=headers).json()[0]
    study, series, instance = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    address = f"/dicom-web/studies/{study}/series/{series}/instances/{instance}"
    assert client.get(f"{address}/frames/1", headers=headers).status_code == 200
    assert client.get(address.replace(instance, "Doe^Jane"), headers=headers).status_code == 400
    read, refused = entries(folder)[-2:]
    assert (read["study"], read["series"], read["instance"]) == (study, series, instance)
    assert (refused["series"], refused["instance"]) == (series, None)


def test_what_cannot_be_logged_is_not_answered(folder: Path, images: dict[str, Any]) -> None:
    """Linux's full device stands for a full disk."""
    app = create_app(Settings(str(folder / "archive")))
    app.state.services.access_log._file = os.open("/dev/full", os.O_WRONLY)
    with testclient.TestClient(app, base_url="http://localhost") as client:
        for address in (f"/api/images/{images['A'].id}/tiles/0/0/0.png", "/api/images"):
            answer = client.get(address)
            assert (answer.status_code, answer.json()["code"]) == (507, "StoreFull")
        assert client.get("/health").status_code == 200


def test_the_log_goes_on_in_a_new_file_when_it_was_moved(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "log"
    app = create_app(Settings(str(folder / "archive"), access_log=path))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        client.get("/api/images")
        path.rename(tmp_path / "log.1")
        client.get("/api/images")
        app.state.services.refresh()
        client.get("/api/images")
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("log.1", "log")] == [2, 1]


def test_nothing_of_a_patient_is_in_ordinary_logs(
    folder: Path, images: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in a handler, and damage: the log names kinds and places."""
    app = create_app(Settings(str(folder / "archive")))

    def broken(*_: object) -> None:
        raise RuntimeError("Phantom^Chest DEMO secret")

    app.state.services.catalogue.entries = broken
    with testclient.TestClient(app, base_url="http://localhost") as client:
        answer = client.get("/api/images?q=Phantom%5EChest")
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalError")
    assert "RuntimeError" in caplog.text
    assert "Phantom" not in caplog.text + answer.text
    assert "Traceback" not in caplog.text + answer.text


# -- the file of tokens -------------------------------------------------------------------------------------


def test_a_token_is_kept_as_its_digest_only(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    secret, made = add_token(path, "ward 3", ["read"], ["*"], 30)
    assert len(secret) >= 43
    assert secret not in path.read_text()
    assert made.sha256 == digest_of(secret)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Tokens(path).principal(secret).name == "ward 3"
    with pytest.raises(Conflict):
        add_token(path, "ward 3", ["read"], ["*"], None)
    revoke_token(path, "ward 3")
    with pytest.raises(NotAuthenticated):
        Tokens(path).principal(secret)
    with pytest.raises(ImageNotFound):
        revoke_token(path, "ward 3")


def test_tokens_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    add_token(path, "x", ["read"], ["*"], None)
    path.chmod(0o640)
    with pytest.raises(AccessDenied):
        Tokens(path)


GOOD = {"name": "x", "sha256": "0" * 64, "actions": ["read"], "scopes": ["*"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"tokens": 3}',
        '{"tokens": [3]}',
        "[" * 5000,
        json.dumps({"tokens": [GOOD, GOOD]}),
        *(
            json.dumps({"tokens": [{**GOOD, key: value}]})
            for key, value in (
                ("name", ""),
                ("name", 3),
                ("sha256", "abc"),
                ("actions", []),
                ("actions", ["destroy"]),
                ("actions", "read"),
                ("scopes", []),
                ("scopes", "*"),
                ("scopes", ["study:*"]),
                ("scopes", ["image:abc"]),
                ("expires", "tomorrow"),
                ("expires", "2030-01-01T00:00:00"),
                ("expires", 5),
                ("token", "x"),
            )
        ),
    ],
)
def test_a_file_that_is_none_of_tokens_lets_nobody_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidRequest):
        Tokens(path)


def test_a_changed_file_counts_at_once_and_a_broken_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    secret, _ = add_token(path, "one", ["read"], ["*"], None)
    tokens = Tokens(path)
    other, _ = add_token(path, "two", ["read"], ["*"], None)
    tokens.refresh()
    assert tokens.principal(other).name == "two"
    path.write_text("{ half of it")
    tokens.refresh()
    assert tokens.principal(secret).name == "one"
    path.unlink()
    tokens.refresh()
    with pytest.raises(NotAuthenticated):
        tokens.principal(secret)


def test_all_digests_are_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilevault.workflows.serve import tokens as module

    path = tmp_path / "tokens.json"
    secrets = [add_token(path, f"t{k}", ["read"], ["*"], None)[0] for k in range(5)]
    seen: list[str] = []
    compare = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: seen.append(a) or compare(a, b))
    assert Tokens(path).principal(secrets[0]).name == "t0"
    assert len(seen) == 5


def test_an_entry_says_what_it_is_good_for() -> None:
    principal = Token(**{**GOOD, "actions": ("read",), "scopes": ("study:1.2", f"image:{ABSENT}")}).principal
    assert principal.may("read", "f" * 32, "1.2")
    assert principal.may("read", ABSENT, None)
    assert not principal.may("write", ABSENT, "1.2")
    assert not principal.may("read", "f" * 32, "1.2.3")
    assert not principal.may("read")
    assert not replace(principal, actions=frozenset()).may("read", ABSENT)
    assert Principal("x", frozenset(ACTIONS), frozenset({"*"})).may("search")
