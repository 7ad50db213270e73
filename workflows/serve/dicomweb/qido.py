"""QIDO-RS: searches for studies, series and instances (PS3.18 10.6), on the index.

The order is stable: studies from the newest date on, series and instances by their numbers, and by UID among
equals. What the index has not of an attribute that ``includefield`` names comes from the archived header.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from tilevault.archive.formats.dicom_json import tag_text
from tilevault.archive.formats.dicom_names import vr_of
from tilevault.codecs.errors import InvalidRequest, NotAcceptable
from tilevault.workflows.serve.access import Principal
from tilevault.workflows.serve.dicomweb.accept import accepted
from tilevault.workflows.serve.dicomweb.instances import header_model
from tilevault.workflows.serve.dicomweb.matching import Condition, attribute_path, condition, register
from tilevault.workflows.serve.dicomweb.resources import Place
from tilevault.workflows.serve.index_rows import INSTANCE_TAGS, SERIES_TAGS, STUDY_TAGS

if TYPE_CHECKING:
    import sqlite3

    from tilevault.workflows.serve.services import Services

__all__ = ["MAX_RESULTS", "Search", "parse_search", "search"]

MAX_RESULTS = 10_000
"""Results of one answer; a client that wants more asks with ``offset``."""
MAX_OFFSET = 1 << 40
JSON_TYPES = ("application/dicom+json", "application/json")
MORE = "There are {} additional results that can be requested"
NOT_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
NOT_MATCHED = "These attributes are not supported for matching, and were not matched: {}"
ORDERS = {
    "study": "date IS NULL, date DESC, time DESC, study",
    "series": "study, number IS NULL, number, series",
    "instance": "study, series, number IS NULL, number, sop",
}
TABLES = {"study": "studies", "series": "series", "instance": "instances"}
DEFAULTS = {
    "study": frozenset(
        (
            *(0x00080020, 0x00080030, 0x00080050, 0x00080090, 0x00080201, 0x00081030, 0x00100010),
            *(0x00100020, 0x00100030, 0x00100040, 0x0020000D, 0x00200010),
        )
    ),
    "series": frozenset(
        (
            *(0x00080021, 0x00080060, 0x00080201, 0x0008103E, 0x0020000D, 0x0020000E, 0x00200011),
            *(0x00400244, 0x00400245, 0x00400275),
        )
    ),
    "instance": frozenset(
        (
            *(0x00080016, 0x00080018, 0x00080201, 0x0020000D, 0x0020000E, 0x00200013, 0x00280008),
            *(0x00280010, 0x00280011, 0x00280100),
        )
    ),
}
"""What is answered of each level without ``includefield`` (PS3.18 tables 10.6.3-3 to -5)."""
REQUIRED = {
    "study": (
        *(0x00080020, 0x00080030, 0x00080050, 0x00080090, 0x00100010, 0x00100020, 0x00100030),
        *(0x00100040, 0x00200010),
    ),
    "series": (0x00080060, 0x00200011),
    "instance": (0x00200013,),
}
"""Of these those that are answered empty where an instance has none."""
OF_LEVEL = {"study": STUDY_TAGS, "series": SERIES_TAGS, "instance": INSTANCE_TAGS}
CHARSET = 0x00080005
COUNTED = frozenset(
    (
        *(0x00080056, 0x00080061, 0x00080062, 0x00081190, 0x00083002, 0x00201206, 0x00201208),
        0x00201209,
    )
)
"""What no header has: made here, or left out."""


@dataclass(frozen=True)
class Search:
    """What a query asks for."""

    conditions: tuple[Condition, ...] = ()
    include: frozenset[int] = frozenset()
    everything: bool = False
    """``includefield=all``"""
    limit: int | None = None
    offset: int = 0
    warnings: tuple[str, ...] = ()
    lossy_copies: bool = False
    """Instances of lossy images too whose originals are there."""
    sop_given: bool = field(default=False)
    """A SOPInstanceUID is asked for: a lossy copy answers to its own."""


def parse_search(level: str, parameters: Sequence[tuple[str, str]]) -> Search:
    """The query parameters of a search on ``study``, ``series`` or ``instance``. Raises `InvalidRequest`."""
    conditions: list[Condition] = []
    include: set[int] = set()
    unmatched: list[str] = []
    numbers: dict[str, int] = {}
    warnings: list[str] = []
    everything = lossy = sop_given = False
    for name, value in parameters:
        if name in ("limit", "offset"):
            numbers[name] = _count(name, value)
        elif name == "includefield":
            named = [part.strip() for part in value.split(",") if part.strip()]
            everything = everything or "all" in named
            include |= {_field(part) for part in named if part != "all"}
        elif name == "fuzzymatching":
            if _flag(name, value):
                warnings.append(NOT_FUZZY)
        elif name == "lossycopies":
            lossy = _flag(name, value)
        elif name != "accept":
            path = attribute_path(name)
            if path is None:
                raise InvalidRequest(f"{name[:80]!r} is neither a parameter nor a DICOM attribute")
            found = condition(level, path, value)
            if found is None:
                unmatched.append(name)
            else:
                conditions.append(found)
                sop_given = sop_given or path == (0x00080018,)
    if unmatched:
        warnings.append(NOT_MATCHED.format(", ".join(sorted(set(unmatched)))[:500]))
    return Search(
        tuple(conditions),
        frozenset(include),
        everything,
        numbers.get("limit"),
        numbers.get("offset", 0),
        tuple(warnings),
        lossy,
        sop_given,
    )


def _count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 13 and int(value) <= MAX_OFFSET):
        raise InvalidRequest(f"{name} wants a whole number, not {value[:40]!r}")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise InvalidRequest(f"{name} is true or false, not {value[:40]!r}")
    return value == "true"


def _field(name: str) -> int:
    path = attribute_path(name)
    if path is None:
        raise InvalidRequest(f"includefield={name[:80]!r} is no DICOM attribute")
    # Of an attribute inside a sequence, the whole sequence is answered.
    return path[0]


async def search(services: "Services", request: Request, level: str) -> Response:
    """The answer to a search below ``/dicom-web``."""
    values = request.query_params.getlist("accept") or request.headers.getlist("accept")
    if not any(one.matches(media) for one in accepted(values) for media in JSON_TYPES if not one.multipart):
        raise NotAcceptable("searches are answered as application/dicom+json")
    asked = parse_search(level, request.query_params.multi_items())
    place = Place.of(request)
    return await services.run(_answer, services, request.state.principal, place, level, asked)


def _answer(services: "Services", principal: Principal, place: Place, level: str, asked: Search) -> Response:
    rows, remaining = _rows(services, principal, place, level, asked)
    warnings = [*asked.warnings, *([MORE.format(remaining)] if remaining else [])]
    headers = {"Cache-Control": "private, no-store"}
    if warnings:
        headers["Warning"] = ", ".join(f'299 {place.service}: "{_quotable(text)}"' for text in warnings)
    if not rows:
        return Response(status_code=204, headers=headers)
    results = [_result(services, row, place, level, asked) for row in rows]
    body = json.dumps(results, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(body, headers=headers, media_type="application/dicom+json")


def _quotable(text: str) -> str:
    plain = text.encode("ascii", "replace").decode()
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _rows(
    services: "Services", principal: Principal, place: Place, level: str, asked: Search
) -> tuple[list["sqlite3.Row"], int]:
    """The rows of the page that is asked for, and how many follow it."""
    index = services.index
    conditions = [*asked.conditions, *place.conditions(level)]
    if level == "instance" and not (asked.lossy_copies or asked.sop_given):
        conditions.append(Condition("visible"))
    conditions.append(Condition("may_read(study)"))
    where = " AND ".join(f"({one.sql})" for one in conditions)
    parameters = [value for one in conditions for value in one.parameters]
    limit = MAX_RESULTS if asked.limit is None else min(asked.limit, MAX_RESULTS)

    def prepare(db: "sqlite3.Connection") -> None:
        register(db)
        db.create_function("may_read", 1, _permission(principal))

    found = index.rows(
        f"SELECT * FROM {TABLES[level]} WHERE {where} ORDER BY {ORDERS[level]} LIMIT ? OFFSET ?",
        [*parameters, limit + 1, asked.offset],
        prepare,
    )
    if len(found) <= limit:
        return found, 0
    total = index.rows(f"SELECT COUNT(*) AS n FROM {TABLES[level]} WHERE {where}", parameters, prepare)
    return found[:limit], int(total[0]["n"]) - asked.offset - limit


def _permission(principal: Principal) -> Callable[[str], bool]:
    known: dict[str, bool] = {}

    def may_read(study: str) -> bool:
        if study not in known:
            known[study] = principal.may("read", study=study)
        return known[study]

    return may_read


def _result(
    services: "Services", row: "sqlite3.Row", place: Place, level: str, asked: Search
) -> dict[str, Any]:
    """One result: indexed attributes, what is counted, and what only the header has."""
    levels = {"study": ["study"], "series": ["series"], "instance": ["instance"]}[level]
    if place.study is None and level != "study":
        # Outside of one study, results tell which study and patient they belong to.
        levels = [*levels, "study"]
    if level == "instance" and place.series is None:
        levels = [*levels, "series"]
    wanted = frozenset().union(*(OF_LEVEL[x] if asked.everything else DEFAULTS[x] for x in levels))
    wanted |= asked.include
    indexed: Mapping[str, Any] = json.loads(row["attributes"])
    if level == "instance":
        indexed = {**json.loads(row["above"]), **indexed}
    found = {key: value for key, value in indexed.items() if int(key, 16) in wanted}
    for tag in (tag for x in levels for tag in REQUIRED[x]):
        found.setdefault(tag_text(tag), {"vr": vr_of(tag)})
    known = STUDY_TAGS | SERIES_TAGS | (INSTANCE_TAGS if level == "instance" else frozenset())
    missing = asked.include - {int(key, 16) for key in found} - known - COUNTED
    if missing:
        found |= _from_header(services, row, level, frozenset(missing))
    found |= _counted(services, row, place, level, asked)
    if _beyond_ascii(found):
        found[tag_text(CHARSET)] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    else:
        found.pop(tag_text(CHARSET), None)
    return dict(sorted(found.items()))


def _from_header(
    services: "Services", row: "sqlite3.Row", level: str, tags: frozenset[int]
) -> dict[str, Any]:
    """Attributes that the index has not, from the archived header (of the first instance of a series)."""
    if level != "instance":
        narrow = "" if level == "study" else " AND series = ?"
        values = [row["study"]] if level == "study" else [row["study"], row["series"]]
        (row,) = services.index.rows(
            f"SELECT * FROM instances WHERE study = ? AND visible{narrow} ORDER BY series, sop LIMIT 1",
            values,
        )
    model = header_model(services, row["image"], row["file"], lambda path: "", tags)
    return {key: value for key, value in model.items() if "BulkDataURI" not in value}


def _counted(
    services: "Services", row: "sqlite3.Row", place: Place, level: str, asked: Search
) -> dict[str, Any]:
    uids = [row["study"]] if level == "study" else [row["study"], row["series"]]
    if level == "instance":
        uids.append(row["sop"])
    found: dict[str, Any] = {
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00081190": {"vr": "UR", "Value": [place.url(*uids)]},
    }
    if level == "study":
        if modalities := json.loads(row["modalities"]):
            # Left out rather than empty: OHIF lists no study at all where one has it without a value.
            found["00080061"] = _several("CS", modalities)
        found["00201206"] = {"vr": "IS", "Value": [row["series"]]}
        found["00201208"] = {"vr": "IS", "Value": [row["instances"]]}
        if asked.everything or 0x00080062 in asked.include:
            found["00080062"] = _several("UI", json.loads(row["classes"]))
    elif level == "series":
        found["00201209"] = {"vr": "IS", "Value": [row["instances"]]}
    else:
        found["00083002"] = {"vr": "UI", "Value": [row["syntax"]]}
    return found


def _several(vr: str, values: list[Any]) -> dict[str, Any]:
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _beyond_ascii(found: Mapping[str, Any]) -> bool:
    return not json.dumps(found, ensure_ascii=False).isascii()
