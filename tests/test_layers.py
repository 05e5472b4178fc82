"""The house rules: who may import what, how long a file or function may be, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "score_sde"
FILES = sorted(PACKAGE.rglob("*.py"))

# The core, bottom up; a module may import from layers below its own and from its own package.
LAYERS = (
    {"errors", "typing"},
    {"arguments"},
    {"processes"},
    {"chains"},
    {"sdes"},
    {"parameterization"},
    {"objectives", "solvers"},
    {"sampling", "likelihood", "conditioning"},
)
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
CORE_LIBRARIES = {"jax", "jaxtyping", "numpy"}

# Where each of the other libraries may be imported: files or folders of the package.
HOMES = {
    "diffrax": ("solvers/adaptive.py",),
    "flax": ("models/",),
    "optax": ("training/", "experiment.py"),
    "grain": ("data/",),
    "tensorflow_datasets": ("data/",),
    "sklearn": ("data/", "report/baseline.py"),
    "matplotlib": ("report/",),
    "orbax": ("checkpointing/storage.py",),
    "tensorboardX": ("training/writers.py", "report/page/timings.py"),
    "ml_collections": ("defaults.py",),
    "safetensors": ("interop/safetensors_files.py",),
    "msgpack": ("interop/flax_files.py",),
    "tensorflow": (),
    "torch": (),
}


def _name(file):
    return file.relative_to(PACKAGE).as_posix()


def _imported(file):
    """Every module that a file imports, at the top or inside functions, under its full dotted name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(file)} imports relatively"
            # `from score_sde import sampling` imports a module, whatever the form.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _core_module(file):
    """The part of the core that a file belongs to, or None."""
    part = file.relative_to(PACKAGE).with_suffix("").parts[0]
    return part if part in RANK else None


def test_the_checks_see_the_imports_they_are_about():
    imported = {library for file in FILES for name in _imported(file) if (library := name.split(".")[0]) in HOMES}
    assert imported == {library for library, homes in HOMES.items() if homes}
    assert {_core_module(file) for file in FILES} == {None, *RANK}


@pytest.mark.parametrize("file", [file for file in FILES if _core_module(file)], ids=_name)
def test_a_core_module_imports_only_jax_and_what_lies_below_it(file):
    own = _core_module(file)
    allowed = (
        CORE_LIBRARIES | sys.stdlib_module_names | ({"diffrax"} if _name(file) == "solvers/adaptive.py" else set())
    )
    for name in _imported(file):
        library, *rest = name.split(".")
        if library != "score_sde":
            assert library in allowed, f"{_name(file)} imports {name}"
            continue
        assert rest[0] in RANK, f"{_name(file)} imports {name}, which is outside the core"
        assert rest[0] == own or RANK[rest[0]] < RANK[own], f"{_name(file)} imports {name}, which is not below it"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_where_it_belongs(library):
    homes = HOMES[library]
    users = [_name(file) for file in FILES if any(name.split(".")[0] == library for name in _imported(file))]
    strangers = [user for user in users if not user.startswith(homes)] if homes else users
    assert not strangers, f"{library} is imported by {strangers}"


def test_no_file_is_longer_than_four_hundred_lines():
    lengths = {_name(file): len(file.read_text().splitlines()) for file in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_no_function_body_is_longer_than_sixty_lines():
    too_long = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if length > 60:
                too_long[f"{_name(file)}:{node.name}"] = length
    assert not too_long


def _loaded_after(code):
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_the_core_loads_no_border_library():
    loaded = _loaded_after("import score_sde\nfrom score_sde import VP, likelihood, objectives, sampling, solvers")
    assert "jax" in loaded
    assert not loaded & {*HOMES, "PIL"}


def test_importing_the_package_or_its_command_line_does_not_load_jax():
    assert not _loaded_after("import score_sde, score_sde.cli") & {"jax", "numpy", *HOMES}
