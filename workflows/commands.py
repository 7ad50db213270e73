"""The commands: each takes the parsed options and a console, does the work, and returns the exit code.

The work itself lies in the modules of the same name; here is what is said about it. The JSON keys are
documented in docs/cli.md and are kept.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevault.codecs.errors import (
    Conflict,
    InputRejected,
    InvalidRequest,
    TilevaultError,
    UnsupportedSyntax,
    gravest,
)
from tilevault.workflows.console import Console, human_bytes, printable, reason_alone
from tilevault.workflows.lossy import quality_text
from tilevault.workflows.report import bytes_read

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image
    from tilevault.codecs.models.training import Progress as Step
    from tilevault.workflows.ingest import AddResult, Event, ImageResult
    from tilevault.workflows.receipt import ReceiptEntry
    from tilevault.workflows.restore import Restored
    from tilevault.workflows.verify import Damage, Record

__all__ = [
    "add_command",
    "doctor_command",
    "export_command",
    "info_command",
    "ls_command",
    "publish_command",
    "read_command",
    "reindex_command",
    "restore_command",
    "rm_command",
    "serve_command",
    "token_command",
    "train_command",
    "verify_command",
]

ADD_STATUSES = ("added", "extended", "present", "planned", "failed")
EXPORT_STATUSES = ("written", "present", "skipped", "failed")


def _open(path: str) -> "Archive":
    from tilevault.archive.store import Archive

    return Archive.open(path)


def _image(options: argparse.Namespace) -> "Image":
    from tilevault.workflows.finding import find_image

    return find_image(_open(options.archive), options.image)


def add_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault add``"""
    from tilevault.workflows.ingest import add

    for wanted in (options.receipt, options.report):
        _check_writable(wanted)
    with console.progress("add") as progress:

        def show(event: "Event") -> None:
            progress.update(
                files=event.files,
                files_total=event.files_total,
                bytes_done=event.bytes_done,
                bytes_total=event.bytes_total,
                bytes_stored=event.bytes_stored,
                message=event.message,
                title="scan" if event.kind == "scan" else "add",
            )

        result = add(
            options.sources,
            options.archive,
            tile=options.tile,
            prefer=options.prefer,
            lossy=options.lossy,
            labels=options.labels,
            yes_lossy=options.yes_lossy,
            workers=options.workers,
            scheduler=options.scheduler,
            dry_run=options.dry_run,
            progress=show,
        )
    codes = [image.exit_code for image in result.images]
    codes += [InputRejected.exit_code for file in result.files if file.status == "rejected"]
    code = gravest(codes)
    _report_add(result, code, console)
    if options.receipt and not options.dry_run:
        from tilevault.workflows.receipt import write_receipt

        entries = _receipt_entries(result)
        write_receipt(Path(options.receipt), entries)
        console.record("receipt", path=options.receipt, images=len(entries))
        console.line(f"receipt: {printable(options.receipt)}")
    if options.report:
        from tilevault.workflows.report import write_report

        write_report(
            Path(options.report),
            # Nothing was stored where all was refused: there may be no archive at all.
            _open(options.archive) if any(image.commit for image in result.images) else None,
            result,
            thumbnails=not options.no_thumbnails,
        )
        console.record("report", path=options.report)
        console.line(f"report: {printable(options.report)}")
    return code


def _check_writable(wanted: str | None) -> None:
    """Hours of work must not end in a file that cannot be written."""
    if wanted is None:
        return
    path = Path(wanted)
    if not path.parent.is_dir():
        raise InvalidRequest(f"there is no folder for {path}")
    if path.exists():
        raise Conflict(f"there is a file already: {path}", path=str(path))


def _receipt_entries(result: "AddResult") -> "list[ReceiptEntry]":
    from tilevault.workflows.receipt import ReceiptEntry

    return [
        ReceiptEntry(image.image, c["n"], c["sha256"], c["generation"], c["manifest"])
        for image in result.images
        if (c := image.commit) is not None
    ]


def _report_add(result: "AddResult", code: int, console: Console) -> None:
    for image in result.images:
        console.record(
            "image",
            image=image.image,
            name=image.name,
            status=image.status,
            sources=list(image.sources),
            round_trip=image.round_trip,
            bytes_source=image.bytes_source,
            bytes_stored=image.bytes_stored,
            code=image.code,
            reason=None if image.reason is None else reason_alone(image.reason, image.name, *image.sources),
            warnings=list(dict.fromkeys(image.warnings)),
            commit=image.commit,
            fidelity=image.fidelity,
            quality=image.quality,
        )
        console.line(_image_line(image))
        if image.quality is not None:
            console.line(f"          {quality_text(image.quality)}")
        for warning in dict.fromkeys(image.warnings):
            console.line(f"          {printable(warning, 160)}")
    for file in result.files:
        reason = reason_alone(file.reason, file.source)
        console.record("file", source=file.source, status=file.status, code=file.code, reason=reason)
        console.line(f"{file.status:<9} {printable(file.source)}: {printable(reason, 200)}")
    totals = {**result.totals, "exit_code": code}
    console.record("total", **totals)
    console.line(_totals_line(totals, result.images))


def _image_line(image: Any) -> str:
    ratio = f", ratio {image.bytes_source / image.bytes_stored:.2f}" if image.bytes_stored else ""
    told = f"{image.status:<9} {(image.image or '')[:12]:<12}  {printable(image.name, 60)}"
    if image.status == "failed":
        reason = reason_alone(image.reason or "", image.name, *image.sources)
        return f"{told}: {image.code}: {printable(reason, 300)}"
    size = f"{_counted(len(image.sources), 'file')}, {human_bytes(image.bytes_source)}{ratio}"
    if image.round_trip != "lossy":
        return f"{told}  {size}, {image.round_trip}"
    altered = "pixels would be altered: " if image.status == "planned" else ""
    return f"{told}  {size}, {altered}lossy, {image.fidelity}"


def _totals_line(totals: dict[str, Any], images: "Sequence[ImageResult]") -> str:
    parts = [f"{totals[name]} {name}" for name in ADD_STATUSES if totals.get(name)]
    parts += [
        f"{_counted(totals[name], 'file')} {name}" for name in ("skipped", "rejected") if totals.get(name)
    ]
    kept = [image for image in images if image.bytes_stored]
    source, stored = sum(i.bytes_source for i in kept), sum(i.bytes_stored for i in kept)
    read, seconds = bytes_read(images), totals.get("seconds", 0)
    if stored:
        parts.append(f"{human_bytes(source)} in {human_bytes(stored)} (ratio {source / stored:.2f})")
    if seconds:
        parts.append(f"{seconds:.1f} s" + (f", {read / seconds / 1e6:.1f} MB/s" if read else ""))
    counted = _counted(totals.get("images", 0), "image"), _counted(totals.get("files", 0), "file")
    return f"{counted[0]} of {counted[1]}: " + ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def ls_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault ls``"""
    from tilevault.workflows.listing import list_images

    return list_images(_open(options.archive), options.where, console)


def info_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault info``"""
    from tilevault.workflows.listing import describe_image

    describe_image(_image(options), console)
    return 0


def read_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault read``"""
    from tilevault.workflows.reading import read_to_file

    record = read_to_file(
        _image(options),
        Path(options.output),
        window=options.window,
        index=options.index,
        level=options.level,
        words=options.words,
        restore=not options.no_restore,
        require_lossless=options.require_lossless,
    )
    console.record("read", **record)
    shape = " x ".join(str(n) for n in record["shape"])
    console.line(f"{printable(record['path'])}: {shape} {record['dtype']}, level {record['level']}")
    return 0


def export_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault export``"""
    from tilevault.workflows.export import Exported, export

    def say(done: Exported) -> None:
        console.record("export", **done.to_json())
        outcome = f": {done.code}: {printable(done.reason, 300)}" if done.code else f"  {done.proof}"
        console.line(f"{done.status:<8} {printable(done.source if done.code else done.path)}{outcome}")

    archive = _open(options.archive)
    with console.progress("export") as progress:
        results = export(
            archive,
            options.images or None,
            Path(options.output),
            format=options.format,
            words=options.words,
            require_lossless=options.require_lossless,
            tell=say,
            progress=progress.update,
        )
    code = gravest(done.exit_code for done in results)
    size = sum(done.bytes for done in results)
    counts = {status: sum(done.status == status for done in results) for status in EXPORT_STATUSES}
    console.record("total", files=len(results), **counts, bytes=size, exit_code=code)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.line(f"{_counted(len(results), 'file')}: {told or 'nothing'}, {human_bytes(size)}")
    return code


def verify_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault verify``"""
    from tilevault.workflows.verify import verify

    archive = _open(options.archive)
    with console.progress("verify", unit="images") as progress:
        result = verify(
            archive,
            options.images or None,
            depth=options.depth,
            sample=options.sample,
            seed=options.seed,
            against=None if options.against is None else Path(options.against),
            workers=options.workers,
            tell=partial(_say_verified, console),
            progress=progress.update,
        )
    console.record("total", **vars(result))
    counts = f"{result.checked} of {result.expected} checked ({result.depth})"
    found = f"{result.damage} damaged" if result.damage else "no damage found"
    if result.receipt_entries:
        kept = result.receipt_entries - result.receipt_failures
        found += f", {kept} of {result.receipt_entries} in the receipt kept"
    console.line(f"{_counted(result.images, 'image')}, {counts}, {found}, {result.seconds:.1f} s")
    return result.exit_code


def _say_verified(console: Console, record: "Record") -> None:
    """One record of `verify`: as JSON, an image and each damage are lines of their own."""
    from tilevault.workflows.verify import Damage, ImageVerified, Note, ReceiptChecked

    match record:
        case ImageVerified():
            fields = {key: value for key, value in vars(record).items() if key != "damage"}
            console.record("image", **fields, damage=len(record.damage))
            name = printable(record.name or "", 60)
            counts = f"{record.checked} of {record.expected} checked"
            console.line(f"{record.status:<9} {record.image[:12]}  {name}  {counts}")
            for damage in record.damage:
                _say_verified(console, damage)
        case Damage():
            console.record("finding", **vars(record))
            console.line(f"damaged   {record.image[:12]}  {_place(record)}: {printable(_said(record), 300)}")
        case ReceiptChecked():
            console.record("receipt", **vars(record))
            console.line(f"{record.status:<9} {record.image[:12]}  {printable(record.message)}")
        case Note():
            console.record("note", **vars(record))
            console.line(f"note      {printable(record.message)}")


def _said(damage: "Damage") -> str:
    """The message without what the line says already: the image, its folder, and of a tile its place."""
    place = r"(, array [^,]*, tile \([^)]*\))?: " if damage.kind == "tile" else r"(, |: )"
    message = re.sub(rf"^image {damage.image}{place}", "", damage.message)
    return re.sub(rf"images/{damage.image}/[0-9a-f]{{32}}/", "", message)


def _place(damage: "Damage") -> str:
    parts = [damage.kind]
    if damage.level is not None:
        parts.append(f"level {damage.level}")
    if damage.index is not None:
        what = "tile" if damage.kind == "tile" else "chunk"
        parts.append(f"{what} {','.join(map(str, damage.index))}")
    if damage.window is not None:
        spans = zip(damage.window["start"], damage.window["stop"], strict=True)
        parts.append("samples " + ",".join(f"{a}:{b}" for a, b in spans))
    if damage.source is not None:
        parts.append(printable(damage.source, 80))
    return ", ".join(parts)


def rm_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault rm``"""
    from tilevault.workflows.finding import find_image

    archive = _open(options.archive)
    images = [find_image(archive, name) for name in options.images]
    if not options.yes and not _confirmed(images, console):
        console.note("tilevault: nothing was removed")
        return InvalidRequest.exit_code
    codes = []
    for image in {image.id: image for image in images}.values():
        try:
            archive.remove(image.id)
        except TilevaultError as failure:
            console.error(failure, image=image.id)
            codes.append(failure.exit_code)
            continue
        console.record("removed", image=image.id, name=image.summary.get("name"))
        console.line(f"removed {image.id[:12]}  {printable(image.summary.get('name', ''))}")
    return gravest(codes)


def _confirmed(images: Iterable[Any], console: Console) -> bool:
    if not sys.stdin.isatty():
        raise InvalidRequest("rm asks before it removes, and there is no terminal to ask on: say --yes")
    for image in images:
        summary = image.summary
        size = human_bytes(summary.get("bytes_source", 0))
        console.note(f"{image.id[:12]}  {printable(summary.get('name', ''))}  {size}")
    console.err.write("Remove these images and the files they were made of? [y/N] ")
    console.err.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def publish_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault publish``"""
    from tilevault.archive.listing import LISTING

    count = _open(options.archive).write_listing()
    console.record("listing", path=LISTING, images=count)
    console.line(f"{LISTING}: {_counted(count, 'image')}")
    return 0


def doctor_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault doctor``"""
    from tilevault.workflows.doctor import examine

    return examine(options.archive, console)


def serve_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault serve``"""
    from tilevault.workflows.serve.settings import settings_of

    code: int = _server().serve(settings_of(options), console)
    return code


def token_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault token``"""
    code: int = _server().token(options, console)
    return code


def _server() -> Any:
    try:
        from tilevault.workflows.serve import command
    except ImportError as error:
        raise UnsupportedSyntax("the server is not installed: pip install 'tilevault[serve]'") from error
    return command


def reindex_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault reindex``"""
    from tilevault.workflows.serve.index import Index

    index = Index(_open(options.archive), anew=True)
    found = index.state
    index.close()
    for image, code in found.problems.items():
        console.record("problem", image=image, code=code)
        console.line(f"{image[:12]}  cannot be read: {code}")
    console.record(
        "reindex",
        path=str(index.path),
        images=found.images,
        instances=found.instances,
        seconds=round(found.seconds, 3),
    )
    console.line(
        f"{found.images} images, {found.instances} DICOM instances, {found.seconds:.1f} s: "
        f"{printable(str(index.path))}"
    )
    return 4 if found.problems else 0


def train_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault train``"""
    from tilevault.workflows.train import Plan, train
    from tilevault.workflows.train_reference import TrainedReference, train_reference

    plan = Plan(
        iterations=options.iterations,
        batch=options.batch,
        seed=options.seed,
        threads=options.workers,
        hold_out=tuple(options.hold_out),
        base=options.base,
        stages=tuple(options.stage),
    )
    with console.progress("train", unit="iterations") as progress:

        def show(step: "Step") -> None:
            progress.update(
                files=step.iteration,
                files_total=step.iterations,
                message=f"loss {step.loss:.4f}",
                title=step.stage,
            )
            console.record("progress", **dataclasses.asdict(step))

        begin = train_reference if options.network == "dncnn" else train
        done = begin(options.sources, options.output, plan, show)
    console.record("model", **dataclasses.asdict(done))
    console.line(
        f"{printable(done.model)}: {human_bytes(done.size)}, {done.digest[:12]}, "
        f"from {_counted(done.images, 'image')} in {done.seconds:.0f} s"
    )
    for name, measured in done.measured.items():
        if isinstance(done, TrainedReference):
            gains = (f"{gain:+.2f} dB at {key.removeprefix('gain_q')}" for key, gain in measured.items())
            console.line(f"{name.replace('_', ' '):<9} JPEG quality: {', '.join(gains)}")
            continue
        bits, gain = measured["bits_tables"], measured["restoration_gain"]
        console.line(f"{name.replace('_', ' '):<9} {bits:.3f} bits per sample, restoration {gain:+.3f} dB")
    return 0


def restore_command(options: argparse.Namespace, console: Console) -> int:
    """``tilevault restore``"""
    from tilevault.workflows.restore import restore_pictures

    def say(done: "Restored | tuple[str, TilevaultError]") -> None:
        if isinstance(done, tuple):
            console.error(done[1], source=done[0])
            return
        console.record("restored", **done.to_json())
        told = f"{done.restored} of {done.kind}, changed by {done.mean_change:.2f} on average"
        console.line(f"{done.status:<8} {printable(done.path)}: {told}, {done.seconds:.1f} s")
        if (compared := done.comparison) is not None:
            psnr = f"PSNR {compared.psnr_before:.2f} to {compared.psnr_after:.2f} dB"
            ssim = f"SSIM {compared.ssim_before:.4f} to {compared.ssim_after:.4f}"
            console.line(f"         {psnr}, {ssim}")

    with console.progress("restore") as progress:
        failures = restore_pictures(
            options.sources,
            options.output,
            options.model,
            options.reference,
            options.workers,
            say,
            progress.update,
        )
    code, count = gravest(failures), len(options.sources)
    console.record("total", files=count, restored=count - len(failures), exit_code=code)
    console.line(
        f"{count - len(failures)} of {_counted(count, 'picture')} restored: estimates, not the originals"
    )
    return code
