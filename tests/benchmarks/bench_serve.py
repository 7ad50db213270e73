"""The server under load: what a tile costs over HTTP, and fifty people who pan and zoom at once.

    python tests/benchmarks/bench_serve.py [--seconds 20] [--viewers 50] [--pause 1.0] [--json FILE]

*tile*: the samples of random aligned tiles of 512 x 512, by `/pixels` and by `Image.read` in this process, in
turn, each tile once (nothing is cached). *viewers*: each on a connection of its own; a step pans or zooms,
asks for the tiles that came into sight one after the other, and rests for ``--pause`` seconds (times 0.5 to
1.5, drawn anew). Tiles that a viewer has, it does not ask for again, as no browser does: its first screens
cost most, and all fifty open them at once. The single client: eight of the fifty, one at a time, at a server
of their own, so that one and many look at the same mixture. Clients share the processors with the server.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import collection
import serve_zoo
import tilevault
from tilevault import Archive
from tilevault.archive import Window

SIDE, TILE, VIEW = 6000, 512, (3, 4)
"""Of the scene; of tiles; rows and columns of tiles on a screen."""
CACHE = 256
"""MiB, as is the server's default."""
ALONE, ALONE_SECONDS = 8, 12.0
"""Of the viewers so many are measured one at a time as well, in so many seconds together."""


@dataclass
class Outcome:
    """What a run of viewers saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each answer, from the request to its last byte."""
    failures: list[str] = field(default_factory=list)
    bytes: int = 0
    connections: int = 0


class Viewer:
    """One person in front of one image."""

    def __init__(
        self, host: str, port: int, images: list[dict[str, Any]], seed: int, outcome: Outcome
    ) -> None:
        self.address = host, port
        self.random = random.Random(seed)
        self.image = self.random.choice(images)
        self.outcome = outcome
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.seen: set[tuple[int, ...]] = set()

    async def watch(self, until: float, pause: float) -> None:
        """Pan and zoom until the clock says ``until``."""
        try:
            level, y, x = max(0, len(self.image["levels"]) - 11), 0, 0
            while time.monotonic() < until:
                height, width = self.image["levels"][level]["shape"]
                rows, columns = -(-height // TILE), -(-width // TILE)
                for tile in self._in_sight(level, min(y, rows - 1), min(x, columns - 1), rows, columns):
                    await self._get(tile)
                await asyncio.sleep(pause * self.random.uniform(0.5, 1.5))
                if self.random.random() < 0.2:
                    step = self.random.choice((-1, 1))
                    level = min(max(0, level + step), 3)
                    y, x = (y // 2, x // 2) if step > 0 else (2 * y, 2 * x)
                else:
                    y = min(max(0, y + self.random.randint(-1, 1)), rows - 1)
                    x = min(max(0, x + self.random.randint(-1, 1)), columns - 1)
        finally:
            if self.connection is not None:
                self.connection[1].close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection; a new one where the server has ended it, which it does after a while of rest."""
        if self.connection is None or self.connection[0].at_eof():
            if self.connection is not None:
                self.connection[1].close()
            self.connection = await asyncio.open_connection(*self.address)
            self.outcome.connections += 1
        return self.connection

    def _in_sight(self, level: int, y: int, x: int, rows: int, columns: int) -> list[tuple[int, ...]]:
        """Tiles on the screen that this viewer has not got yet."""
        z = self.random.randrange(self.image["slices"]) if self.image["slices"] > 1 else 0
        wanted = [
            (level, row, column, z)
            for row in range(y, min(y + VIEW[0], rows))
            for column in range(x, min(x + VIEW[1], columns))
        ]
        new = [tile for tile in wanted if tile not in self.seen]
        self.seen.update(new)
        return new

    async def _get(self, tile: tuple[int, ...]) -> None:
        level, row, column, z = tile
        query = f"?z={z}" if self.image["slices"] > 1 else ""
        path = f"/api/images/{self.image['id']}/tiles/{level}/{row}/{column}.jpg{query}"
        began = time.perf_counter()
        try:
            reader, writer = await self._connected()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, IndexError) as failure:
            self.outcome.failures.append(type(failure).__name__)
            raise
        self.outcome.seconds.append(time.perf_counter() - began)
        self.outcome.bytes += length
        if not head.startswith(b"HTTP/1.1 200"):
            self.outcome.failures.append(head[:12].decode())


def build(folder: Path, side: int = SIDE) -> Path:
    """An archive of a scene of four bands and a CT series."""
    collection.write_scene(folder / "scene.tif", side=side)
    collection.write_ct_series(folder / "ct", slices=24)
    tilevault.add([folder / "scene.tif", folder / "ct"], folder / "archive")
    return folder / "archive"


def split(url: str) -> tuple[str, int]:
    """Host and port of a server's address."""
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def described(url: str) -> list[dict[str, Any]]:
    """The images of a server, as viewers need them."""
    connection = http.client.HTTPConnection(*split(url))

    def get(path: str) -> Any:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    images = [get(f"/api/images/{one['id']}") for one in get("/api/images")["images"]]
    connection.close()
    for image in images:
        axes = dict(zip(image["axes"], image["shape"], strict=True))
        image["slices"] = axes.get("z", 1)
    return images


def watched(
    url: str, images: list[dict[str, Any]], seeds: Sequence[int], seconds: float, pause: float
) -> Outcome:
    """What as many viewers as there are seeds see in ``seconds``."""
    outcome = Outcome()

    async def all_of_them() -> None:
        until = time.monotonic() + seconds
        one_by_one = [Viewer(*split(url), images, seed, outcome) for seed in seeds]
        await asyncio.gather(*(v.watch(until, pause) for v in one_by_one), return_exceptions=True)

    asyncio.run(all_of_them())
    return outcome


def one_at_a_time(url: str, images: list[dict[str, Any]], seeds: Sequence[int], seconds: float) -> Outcome:
    """What these viewers see when each has the server to himself, for a share of ``seconds``."""
    outcome = Outcome()
    for seed in seeds:
        seen = watched(url, images, [seed], seconds / len(seeds), 0.05)
        outcome.seconds += seen.seconds
        outcome.failures += seen.failures
    return outcome


def memory(url: str) -> int:
    """Peak resident bytes of the process that listens at ``url``."""
    port = f":{split(url)[1]:04X} "
    line = next(
        one for one in Path("/proc/net/tcp").read_text().splitlines() if port in one and " 0A " in one
    )
    inode = f"socket:[{line.split()[9]}]"
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) == inode:
                status = (descriptor.parents[1] / "status").read_text()
                return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return 0


def tile_cost(url: str, archive: Path, count: int) -> dict[str, float]:
    """Medians, in ms: a tile read here, here with the image opened each time, and over HTTP."""
    scene = next(
        image for image in Archive.open(archive).values() if image.info and image.info.kind == "satellite"
    )
    connection = http.client.HTTPConnection(*split(url))
    height, width = scene.shape[-2:]
    places = [(y, x) for y in range(0, height - TILE, TILE) for x in range(0, width - TILE, TILE)]
    random.Random(1).shuffle(places)
    taken: dict[str, list[float]] = {"here": [], "opened": [], "http": []}
    for y, x in places[:count]:
        box = Window((y, x), (y + TILE, x + TILE))
        began = time.perf_counter()
        here = scene.read(box)
        taken["here"].append(time.perf_counter() - began)
        began = time.perf_counter()
        Archive.open(archive)[scene.id].read(box)
        taken["opened"].append(time.perf_counter() - began)
        began = time.perf_counter()
        connection.request("GET", f"/api/images/{scene.id}/pixels/0?window={y}:{y + TILE},{x}:{x + TILE}")
        answer = connection.getresponse()
        body = answer.read()
        taken["http"].append(time.perf_counter() - began)
        if body != here.astype(here.dtype.newbyteorder("<")).tobytes():
            raise SystemExit("the server gives other samples")
    connection.close()
    medians = {name: 1000 * statistics.median(values) for name, values in taken.items()}
    return {
        **medians,
        "ratio": medians["http"] / medians["here"],
        "ratio_opened": medians["http"] / medians["opened"],
    }


def quantile(values: list[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measured(
    folder: Path, viewers: int, seconds: float, pause: float, side: int = SIDE, cache: int = CACHE
) -> dict[str, Any]:
    """All numbers of one run; ``cache``: MiB that the server may keep."""
    archive = build(folder, side)
    with serve_zoo.running(archive, "--cache", 16) as url:
        tile = tile_cost(url, archive, 60)
    seeds = range(2000, 2000 + viewers)
    with serve_zoo.running(archive, "--cache", cache) as url:
        one = one_at_a_time(url, described(url), seeds[:ALONE], ALONE_SECONDS)
    with serve_zoo.running(archive, "--cache", cache) as url:
        images, idle = described(url), memory(url)
        many = watched(url, images, seeds, seconds, pause)
        peak = memory(url)
    alone = statistics.median(one.seconds)
    return {
        "tile_ms": tile,
        "viewers": viewers,
        "seconds": seconds,
        "pause": pause,
        "cache_MiB": cache,
        "alone_answers": len(one.seconds),
        "alone_median_ms": 1000 * alone,
        "alone_p99_ms": 1000 * quantile(one.seconds, 0.99),
        "answers": len(many.seconds),
        "answers_per_second": len(many.seconds) / seconds,
        "MB_per_second": many.bytes / seconds / 1e6,
        "median_ms": 1000 * statistics.median(many.seconds),
        "p99_ms": 1000 * quantile(many.seconds, 0.99),
        "p99_to_alone": quantile(many.seconds, 0.99) / alone,
        "connections": many.connections,
        "failures": one.failures + many.failures,
        "memory_idle_MiB": idle / 2**20,
        "memory_peak_MiB": peak / 2**20,
    }


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--pause", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--cache", type=int, default=CACHE)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = options.viewers, options.seconds, options.pause, options.side, options.cache
        found = measured(Path(folder), *asked)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
