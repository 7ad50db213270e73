"""The command line ``tilevault``: arguments in, a command, an exit code out.

Parsing needs the standard library only; what a command needs it imports itself, so that ``--version`` and
``--help`` answer at once. No failure shows a traceback unless ``--debug`` asks for it.

Exit codes: 0 done; 2 usage; 3 input rejected; 4 integrity; 5 storage; 6 full; 7 conflict; 8 denied; 70 a
fault of ours; 130 interrupted; 141 the reader of our output went away; 143 terminated. Of several failures
the gravest gives the code (`codecs.errors.gravest`).
"""

import argparse
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import tilevault

if TYPE_CHECKING:
    from tilevault.workflows.console import Console

__all__ = ["build_parser", "main"]

EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
EXIT_TERMINATED = 143

IMAGE_HELP = "an image: the beginning of its id, a SeriesInstanceUID, or the name of a source file"


class _CommandParser(argparse.ArgumentParser):
    """Lets options stand anywhere between positional arguments (``add a --dry-run b archive``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._intermixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if self._intermixing:
            return super().parse_known_args(args, namespace)
        self._intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixing = False


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; documented commands and options are read from it."""
    parser = argparse.ArgumentParser(
        prog="tilevault",
        description="An archive for large medical and satellite images that proves what it stores.",
        epilog="`tilevault COMMAND --help` explains a command. Exit codes and JSON keys: docs/cli.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tilevault {tilevault.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for add_command in (
        _add,
        _ls,
        _info,
        _read,
        _export,
        _verify,
        _rm,
        _publish,
        _doctor,
        _serve,
        _token,
        _reindex,
        _train,
        _restore,
    ):
        add_command(commands)
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    described = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=described)
    parser.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def _add(commands: Any) -> None:
    parser = _command(commands, "add", "archive files and folders (the archive is made if it is not there)")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a file, or a folder and all below it")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    parser.add_argument("--tile", type=_tile, default=512, metavar="N", help="side of a tile (default 512)")
    parser.add_argument(
        "--prefer",
        choices=("resolution", "size"),
        default="resolution",
        help="tiles whose beginning shows them at lower resolution (default), or the smallest ones",
    )
    parser.add_argument(
        "--lossy",
        metavar="BOUND",
        help="alter pixels within a bound: psnr=DB (of every tile) or max-error=N (of every sample, in "
        "stored units); refused for labels, doses and parameters (default: lossless)",
    )
    parser.add_argument(
        "--labels", action="store_true", help="pixels are labels: never lossy, never averaged"
    )
    parser.add_argument(
        "--yes-lossy", action="store_true", help="what looks like labels by name or few values is none"
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="tasks at a time (default: the cores)")
    parser.add_argument(
        "--scheduler",
        metavar="ADDR",
        help="a Dask scheduler, such as tls://host:8786 (tcp:// on this machine only)",
    )
    parser.add_argument("--report", metavar="FILE.html", help="write a report to read in a browser")
    parser.add_argument("--no-thumbnails", action="store_true", help="no pictures in the report")
    parser.add_argument("--receipt", metavar="FILE", help="write a receipt for `verify --against`")


def _ls(commands: Any) -> None:
    parser = _command(commands, "ls", "list the images of an archive")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only images that match (all of them): any search key, * and ? allowed; "
        "StudyDate=20240101-20241231, bbox=W,S,E,N, time=FROM/TO, name=",
    )


def _info(commands: Any) -> None:
    parser = _command(commands, "info", "tell everything about one image")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("image", metavar="IMAGE", help=IMAGE_HELP)


def _read(commands: Any) -> None:
    parser = _command(commands, "read", "read a window of an image into a file")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("image", metavar="IMAGE", help=IMAGE_HELP)
    parser.add_argument("--window", metavar="Y0:Y1,X0:X1", help="rows and columns (default: all)")
    parser.add_argument(
        "--index",
        action="append",
        default=[],
        metavar="AXIS=N",
        help="position along another axis, such as z=3",
    )
    parser.add_argument("--level", type=int, default=0, metavar="K", help="0 is full size, K is 1/2**K of it")
    parser.add_argument("--words", action="store_true", help="the words as stored, not the values")
    parser.add_argument("--no-restore", action="store_true", help="lossy: without what a network adds")
    parser.add_argument("--require-lossless", action="store_true", help="refuse images that are lossy")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="a .npy, .png or .tif file")


def _export(commands: Any) -> None:
    parser = _command(commands, "export", "write images out again; never overwrites a file")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=IMAGE_HELP + " (default: all)")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to write to")
    parser.add_argument(
        "--format",
        choices=("original", "dicom", "cog", "npy", "png"),
        default="original",
        help="original: the files as they were (default); dicom: uncompressed DICOM with the pixels as they "
        "are here, lossy ones marked so; cog: cloud-optimised GeoTIFF; npy: arrays; png: pictures",
    )
    parser.add_argument("--require-lossless", action="store_true", help="refuse images that are lossy")
    parser.add_argument("--words", action="store_true", help="npy: the words as stored, not the values")


def _verify(commands: Any) -> None:
    parser = _command(commands, "verify", "check that what is stored is what was stored")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=IMAGE_HELP + " (default: all)")
    parser.add_argument(
        "--depth",
        choices=("exists", "size", "digest", "pixels"),
        default="digest",
        help="digest: every stored byte (default); pixels: also decode, and rebuild the original files",
    )
    parser.add_argument("--sample", type=_percentage, metavar="P", help="check about P percent of it")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which sample (default 0)")
    parser.add_argument("--against", metavar="RECEIPT", help="also check that these commits are still there")
    parser.add_argument("--workers", type=_count, metavar="N", help="images at a time (default: the cores)")


def _rm(commands: Any) -> None:
    parser = _command(commands, "rm", "remove images and their files from an archive")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=IMAGE_HELP)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _publish(commands: Any) -> None:
    parser = _command(commands, "publish", "list the images in listing.json, for readers behind a web server")
    parser.add_argument("archive", metavar="ARCHIVE")


def _doctor(commands: Any) -> None:
    parser = _command(commands, "doctor", "say what is installed, and what other readers see of an archive")
    parser.add_argument("archive", nargs="?", metavar="ARCHIVE")


def _serve(commands: Any) -> None:
    parser = _command(commands, "serve", "serve an archive over HTTP: viewer, tiles, files, DICOMweb")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, default=8480, metavar="P", help="port; 0 is any free one (default 8480)"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="who may do what: see `tilevault token`")
    parser.add_argument(
        "--insecure", action="store_true", help="serve other machines without TLS or without tokens"
    )
    parser.add_argument(
        "--proxy-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which a reverse proxy on this machine hands requests on",
    )
    parser.add_argument("--access-log", type=Path, metavar="FILE", help="who read what, JSON lines")
    parser.add_argument(
        "--cache",
        type=_megabytes,
        default=256,
        metavar="MB",
        help="memory for tiles and pictures (default 256)",
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="requests at a time (default: the cores)")


def _token(commands: Any) -> None:
    parser = _command(commands, "token", "list, add or revoke the tokens of a file for `serve --tokens`")
    parser.add_argument("file", metavar="FILE", help="the file of tokens; made by the first --add")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--add", metavar="NAME", help="make a token; it is shown once")
    what.add_argument("--revoke", metavar="NAME", help="take a token out of the file")
    parser.add_argument(
        "--may",
        action="append",
        choices=("read", "write", "search"),
        metavar="ACTION",
        help="read, write or search; again for more (default: read and search)",
    )
    parser.add_argument(
        "--on", action="append", metavar="SCOPE", help="*, study:UID or image:ID; again for more"
    )
    parser.add_argument("--days", type=_count, metavar="N", help="expires in N days (default: never)")


def _reindex(commands: Any) -> None:
    parser = _command(commands, "reindex", "read the search index of a server anew from the commits")
    parser.add_argument("archive", metavar="ARCHIVE")


def _train(commands: Any) -> None:
    parser = _command(commands, "train", "train a model of the learned path on folders of images")
    parser.add_argument("sources", nargs="+", metavar="DATA", help="a file, or a folder and all below it")
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="the model's file")
    parser.add_argument(
        "--network",
        choices=("codec", "dncnn"),
        default="codec",
        help="the networks of the archive's lossy tiles (default), or the reference model of `restore`",
    )
    parser.add_argument(
        "--hold-out",
        action="append",
        default=[],
        metavar="PATTERN",
        help="learn nothing from sources whose name matches (* and ? allowed); measure on them",
    )
    parser.add_argument(
        "--iterations",
        type=_iterations,
        default=6000,
        metavar="N",
        help="length of the training (default 6000)",
    )
    parser.add_argument(
        "--from", dest="base", default="", metavar="MODEL", help="begin with the networks of this model"
    )
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        choices=("entropy", "choice", "restoration"),
        help="train this one only (may be repeated); the others' networks are those of --from",
    )
    parser.add_argument("--batch", type=_count, default=6, metavar="N", help="crops at a time (default 6)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which crops (default 0)")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="cores to use (default 1)")


def _restore(commands: Any) -> None:
    parser = _command(
        commands,
        "restore",
        "estimate what decoded JPEG or JPEG 2000 pictures were before their codec, with a DnCNN; never "
        "touches an archive, and what comes out is not the original",
    )
    parser.add_argument(
        "sources", nargs="+", metavar="INPUT", help="a JPEG, JPEG 2000, PNG or plain TIFF picture"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a .png or .tif file, or a folder"
    )
    parser.add_argument(
        "--reference", metavar="ORIGINAL", help="the picture before its codec: tell PSNR and SSIM against it"
    )
    parser.add_argument(
        "--model", metavar="FILE", help="of `train --network dncnn` (default: the one that comes along)"
    )
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="cores to use (default 1)")


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 to 9999 is wanted, not {text!r}")
    return int(text)


def _iterations(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 to 9999999 is wanted, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a number from 0 to 65535 is wanted, not {text!r}")
    return int(text)


def _megabytes(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 16:
        raise argparse.ArgumentTypeError(f"a number of MB from 16 is wanted, not {text!r}")
    return int(text)


def _tile(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 64 <= int(text) <= 4096 or int(text) % 32:
        raise argparse.ArgumentTypeError(f"a multiple of 32 from 64 to 4096 is wanted, not {text!r}")
    return int(text)


def _percentage(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"a percentage above 0, up to 100, is wanted, not {text!r}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `SystemExit` is raised for usage and ``--version`` only."""
    arguments = _joined(sys.argv[1:] if argv is None else list(argv))
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    options = parser.parse_args(arguments)
    _check_usage(parser, options)

    from tilevault.workflows.console import Console

    console = Console(options.json)
    with _terminable(), warnings.catch_warnings():
        if not options.debug:
            # Warnings of the libraries below are for whoever works on this package.
            warnings.simplefilter("ignore")
        return _guarded(lambda: _run(options, console), console, options.debug)


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What is wrong whatever lies in the archive is a usage mistake too: exit code 2, nothing begun."""
    from tilevault.codecs.errors import InvalidRequest

    try:
        if options.command == "add" and options.dry_run and (options.report or options.receipt):
            raise InvalidRequest("--dry-run writes nothing: leave --report and --receipt out")
        if options.command == "add" and options.lossy is not None:
            from tilevault.workflows.lossy import LossyTarget

            LossyTarget.parse(options.lossy)
        if options.command == "add" and options.yes_lossy and options.lossy is None:
            raise InvalidRequest("--yes-lossy goes with --lossy")
        if options.command == "export" and options.words and options.format != "npy":
            raise InvalidRequest("--words goes with --format npy")
        if options.command == "ls" and options.where:
            from tilevault.workflows.query import Query

            Query.parse(options.where)
        if options.command == "serve":
            from tilevault.workflows.serve.settings import check_settings, settings_of

            check_settings(settings_of(options))
        if options.command == "token" and options.add is None and (options.may or options.on or options.days):
            raise InvalidRequest("--may, --on and --days go with --add")
        if options.command == "token" and options.add is not None and not options.on:
            raise InvalidRequest("--add needs --on: *, study:UID or image:ID")
        if options.command == "read":
            from tilevault.workflows.reading import check_usage

            check_usage(Path(options.output), options.window, options.index, options.level, options.words)
        if options.command == "restore":
            from tilevault.workflows.restore import check_restore_usage

            check_restore_usage(options.sources, options.output, options.reference)
    except InvalidRequest as failure:
        _subparser(parser, options.command).error(failure.message)


def _subparser(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    (choices,) = (a.choices for a in parser._actions if isinstance(a.choices, dict))
    found: argparse.ArgumentParser = choices[command]
    return found


def _joined(arguments: list[str]) -> list[str]:
    """Two habits that argparse does not know, spelt so that it does.

    ``--window -5:3,0:9``: what begins with ``-`` would be taken for an option. ``--where A=1 B=2 ARCHIVE``:
    the option takes every KEY=VALUE that follows, and no more.
    """
    joined: list[str] = []
    option = None
    for argument in arguments:
        if joined and joined[-1] == "--window" and re.match(r"-\d", argument):
            joined[-1] = f"--window={argument}"
            continue
        is_pair = "=" in argument and not argument.startswith("-")
        if option and is_pair and joined[-1] != option:
            joined.append(option)
        joined.append(argument)
        if argument in ("--where", "--index"):
            option = argument
        elif not is_pair:
            option = None
    return joined


def _run(options: argparse.Namespace, console: "Console") -> int:
    from tilevault.workflows import commands

    command: Callable[[argparse.Namespace, Console], int] = getattr(commands, f"{options.command}_command")
    code = command(options, console)
    console.flush()
    return code


def _guarded(run: Callable[[], int], console: "Console", debug: bool) -> int:
    """The exit code of ``run``, whatever it does."""
    from tilevault.codecs.errors import TilevaultError

    try:
        return run()
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end; give it somewhere to go.
        console.discard()
        return EXIT_PIPE
    except KeyboardInterrupt:
        return _cut_short(console, "Interrupted", EXIT_INTERRUPTED)
    except _Terminated:
        return _cut_short(console, "Terminated", EXIT_TERMINATED)
    except TilevaultError as failure:
        if debug:
            traceback.print_exc(file=console.err)
        console.error(failure)
        return failure.exit_code
    except Exception as failure:
        if debug:
            traceback.print_exc(file=console.err)
        from tilevault.workflows.console import printable

        text = printable(f"{type(failure).__name__}: {failure}", 300)
        console.record("error", code="InternalError", message=text, exit_code=EXIT_INTERNAL, retryable=False)
        console.note(f"tilevault: a fault in tilevault itself: {text}")
        console.note("tilevault: please report it, with the output of the same command with --debug")
        return EXIT_INTERNAL


def _cut_short(console: "Console", code: str, exit_code: int) -> int:
    """Say that a signal ended the run; whoever reads the records gets a last one."""
    from tilevault.codecs.errors import TilevaultError

    message = f"{code.lower()}; nothing half-written is visible, run it again to finish"
    with suppress(BrokenPipeError, TilevaultError):
        console.record("error", code=code, message=message, exit_code=exit_code, retryable=True)
    console.note(f"tilevault: {message}")
    return exit_code


class _Terminated(BaseException):
    """SIGTERM arrived; unwinds like `KeyboardInterrupt`, so that temporary files go."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises `_Terminated` in the main thread meanwhile."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
