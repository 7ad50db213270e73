"""The rules of the house, read off the source: who imports whom, what is banned, what is documented."""

import argparse
import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("codecs", "archive", "workflows")
"""In order of dependency: each may import itself and what stands before it."""
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))

MAPS = ("workflows/serve/projection.py", "workflows/serve/raster.py", "workflows/serve/scene.py")
ALLOWED_IN = {
    "torch": ("codecs/learned*.py", "codecs/models/*.py"),
    # Only `Image.to_dask` imports the one in archive/, when it is called.
    "dask": ("workflows/*.py", "archive/dask_arrays.py"),
    "distributed": ("workflows/*.py",),
    "pydicom": ("archive/formats/dicom*.py",),
    "rasterio": ("archive/formats/geotiff*.py", "archive/formats/pictures.py", *MAPS),
    "PIL": ("archive/formats/pictures.py", "codecs/models/jpeg_crops.py", "workflows/serve/*.py"),
    "osgeo": (),
    "pyproj": ("archive/formats/geotiff*.py", "archive/*metadata.py", *MAPS),
    "rio_tiler": (*MAPS, "workflows/serve/maps.py", "workflows/serve/views.py"),
    "morecantile": (*MAPS, "workflows/serve/maps.py"),
    "imagecodecs": ("codecs/frame.py", "codecs/frame_encode.py"),
    "obstore": ("archive/remote.py",),
    # What runs code that it reads has no place where archives from strangers are opened.
    "pickle": (),
    "cloudpickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
}
FORBIDDEN_CALLS = ("eval", "exec", "__import__")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each_module() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", MODULES, ids=name_of)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in ``tree``, by statement or by `import_module`, with its line.

    ``from a import b`` yields ``a.b``, since ``b`` may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (f"{'.' * node.level}{node.module}.{alias.name}", node.lineno) for alias in node.names
            )
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "import_optional_dependency"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value), node.lineno


def called(node: ast.Call) -> str:
    """The last part of the called name."""
    match node.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 10
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(LAYERS)


# -- imports ----------------------------------------------------------------------------------------------


@each_module()
def test_dependencies_point_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = LAYERS[layer + 1 :]
    for module, line in imports(tree_of(path)):
        parts = module.split(".")
        assert parts[0] not in LAYERS or parts[0] == "codecs", f"{name_of(path)}:{line}: bare import {module}"
        if parts[0] != "tilevault" or len(parts) == 1:
            continue
        assert parts[1] not in above, f"{name_of(path)}:{line}: {LAYERS[layer]} imports {module}"
        if above:
            assert parts[1] not in ("Archive", "add"), f"{name_of(path)}:{line}: {module} lies above"


@each_module()
def test_heavy_and_dangerous_packages_stay_in_their_module(path: Path) -> None:
    for module, line in imports(tree_of(path)):
        allowed = ALLOWED_IN.get(module.split(".")[0])
        if allowed is not None:
            assert any(fnmatch(name_of(path), pattern) for pattern in allowed), (
                f"{name_of(path)}:{line}: {module}"
            )


@each_module()
def test_imports_are_absolute(path: Path) -> None:
    relative = [
        f"{name_of(path)}:{line}" for module, line in imports(tree_of(path)) if module.startswith(".")
    ]
    assert not relative


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("tilevault", ("numpy", "zarr", "torch", "dask")),
        ("tilevault.codecs", ("torch", "dask", "distributed", "rasterio", "pydicom", "imagecodecs")),
        ("tilevault.archive", ("torch", "dask", "distributed", "imagecodecs")),
        ("tilevault.workflows.cli", ("torch", "dask", "zarr", "rasterio", "pydicom")),
    ],
)
def test_importing_loads_only_what_is_needed(module: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


# -- what is not written ------------------------------------------------------------------------------------


@each_module()
def test_nothing_runs_what_it_reads(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        where = f"{name_of(path)}:{node.lineno}"
        assert not (isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS), (
            f"{where}: {called(node)}"
        )
        for keyword in node.keywords:
            refused = keyword.arg == "allow_pickle" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not refused, f"{where}: allow_pickle"
            shell = keyword.arg == "shell" and called(node) in (
                "run",
                "Popen",
                "call",
                "check_call",
                "check_output",
            )
            assert not shell, f"{where}: a shell"


def only_narrows(test: ast.expr) -> bool:
    """Whether an assertion tells the type checker no more than ``x is not None``."""
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(only_narrows(value) for value in values)
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
    return False


@each_module()
def test_assert_does_not_guard_input(path: Path) -> None:
    """``python -O`` removes assertions: what must hold is raised as our own error."""
    asserts = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]
    assert not [f"{name_of(path)}:{node.lineno}" for node in asserts if not only_narrows(node.test)]


@each_module()
def test_nothing_is_left_for_later(path: Path) -> None:
    later = r"\b(TODO|FIXME|XXX|HACK)\b"
    if name_of(path) != "codecs/base.py":  # Zarr's contract asks for it there
        later += r"|\bNotImplementedError\b"
    lines = enumerate(path.read_text().splitlines(), 1)
    assert not [
        f"{name_of(path)}:{number}: {line.strip()}" for number, line in lines if re.search(later, line)
    ]


# -- names --------------------------------------------------------------------------------------------------


def defined_names(tree: ast.Module) -> set[str]:
    """The names that the module binds at its top level, under ``if TYPE_CHECKING`` as well."""
    names: set[str] = set()
    for node in top_level(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=found) | ast.ImportFrom(names=found):
                names.update((alias.asname or alias.name).split(".")[0] for alias in found)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
    return names


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        match node:
            case ast.If(body=body, orelse=other):
                yield from body + other
            case ast.Try(body=body, handlers=handlers, orelse=other):
                yield from body + other + [stmt for handler in handlers for stmt in handler.body]
            case _:
                yield node


def declared_all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return list(ast.literal_eval(node.value))
    return None


@each_module()
def test_a_module_says_its_idea_and_its_names(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    names = declared_all(tree)
    if names is None:
        assert not public, f"{name_of(path)} has no __all__ for {sorted(public)}"
        return
    assert len(names) == len(set(names))
    assert public <= set(names), f"{name_of(path)}: public, but not in __all__: {sorted(public - set(names))}"
    missing = set(names) - defined_names(tree)
    assert not missing, f"{name_of(path)}: in __all__, but not there: {sorted(missing)}"


@each_module()
def test_what_is_public_says_what_it_promises(path: Path) -> None:
    tree = tree_of(path)
    public = set(declared_all(tree) or ())
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.name in public
        and not ast.get_docstring(node)
    ]
    assert not silent, f"{name_of(path)}: no docstring: {silent}"


# -- the project's files ------------------------------------------------------------------------------------

SCRATCH = {"build", "demo", "dist", "__pycache__"}


def project_files() -> list[Path]:
    """What is tracked, or is about to be; in a copy without its history, all but what the tools make."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        done = subprocess.run(listing, capture_output=True, text=True, check=True)
        names = [name for name in done.stdout.split("\0") if name]
    else:
        names = [
            name_of(path)
            for path in ROOT.rglob("*")
            if not any(
                part in SCRATCH or (part.startswith(".") and part != ".ci")
                for part in path.relative_to(ROOT).parts
            )
        ]
    return sorted(ROOT / name for name in names if (ROOT / name).is_file())


# In pieces, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(
    r"(?<![\w.~/*$}\])])/(?:" + "|".join(["wor" + "k", "roo" + "t", "hom" + "e"]) + r")(?:/|(?![\w./-]))"
)
REGISTRY = re.compile(
    "|".join(
        [
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            r"registry\.npm" + r"js\.org",
            r"deb\.deb" + r"ian\.org",
        ]
    )
)


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()}")
    assert not found


def test_large_or_foreign_files_are_not_committed() -> None:
    foreign = (".dcm", ".tif", ".tiff", ".whl", ".so", ".pyc", ".ipynb")
    assert not [name_of(p) for p in project_files() if p.stat().st_size > 2**20 or p.suffix in foreign]


def test_the_licence_is_apache_2() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert licence.split()[:2] == ["Apache", "License"]
    assert "Version 2.0, January 2004" in licence
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


def test_dependencies_of_the_lossless_path_hold_no_learned_codec() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [requirement for requirement in project["dependencies"] if requirement.startswith("torch")]
    assert [
        requirement for requirement in project["optional-dependencies"]["learned"] if "torch" in requirement
    ]


def test_every_third_party_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    declared = {re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("-", "_") for requirement in wanted}
    known = declared | set(sys.stdlib_module_names) | {"tilevault"}
    # rasterio brings affine along and hands out its values; numcodecs is zarr's, attr rio-tiler's, h11
    # uvicorn's; PIL is Pillow's name.
    known |= {"affine", "attr", "h11", "numcodecs"} | ({"PIL"} if "pillow" in declared else set())
    for path in MODULES:
        for module, line in imports(tree_of(path)):
            top = module.split(".")[0]
            assert top in known, f"{name_of(path)}:{line}: {module} is not in pyproject.toml"


# -- documentation ------------------------------------------------------------------------------------------

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_make_targets_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"(?:^|[`$] ?)make ([a-z-]+)(?=[`\s]|$)", path.read_text(), re.MULTILINE))
    assert named <= make_targets(), f"{name_of(path)} names {sorted(named - make_targets())}"
    if path.name == "README.md":
        assert {"demo", "test"} <= named


def test_help_lists_every_target() -> None:
    """``make help`` prints the lines that begin with ``#   make``; one line may name two targets."""
    lines = re.findall(r"^#   make .*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = {name for line in lines for name in re.findall(r"\bmake ([a-z-]+)", line)}
    assert shown == make_targets() - {"help", "types"}
    printed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [f"#   {line}" for line in printed.stdout.splitlines()] == lines


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{name_of(path)} links to {target}"


def test_every_command_and_option_is_documented() -> None:
    from tilevault.workflows.cli import build_parser

    text = (ROOT / "docs" / "cli.md").read_text()
    subparsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    missing = []
    for command, parser in subparsers.choices.items():
        section = re.search(
            rf"^#+ .*\b{command}\b.*?(?=^#+ .*`?tilevault |\Z)", text, re.MULTILINE | re.DOTALL
        )
        if section is None:
            missing.append(command)
            continue
        options = [
            option for action in parser._actions for option in action.option_strings if option[:2] == "--"
        ]
        missing += [
            f"{command} {o}" for o in options if o not in ("--help",) and not _mentions(section[0], text, o)
        ]
    assert not missing


def _mentions(section: str, text: str, option: str) -> bool:
    """An option stands in its command's section; the ones that all commands have, anywhere."""
    where = text if option in ("--json", "--debug") else section
    return re.search(rf"{option}(?![\w-])", where) is not None
