"""The house rules: who may import what, how long a file or function may be, and what an import costs."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "score_sde"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("score_sde", "tests", "experiments", "configs", "docs")
HOUSE = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if "build" not in file.parts]

BOTTOM = "convolutions"  # has JAX write programs otherwise, so all that make one import it by way of `typing`
# All rooms (modules and folders of the package), bottom up: each imports from rooms below its own only.
CORE = (
    {"errors", "labels", "typing"},
    {"arguments", "fields"},
    {"keys", "processes", "standardization", "outside"},
    {"chains", "quantization"},
    {"sdes"},
    {"parameterization", "weightings"},
    {"solvers", "times", "average_velocity"},
    {"variational"},
    {"objectives"},
    {"sampling", "likelihood", "conditioning"},
    {"samplers"},
)
LAYERS = (
    {BOTTOM},
    {"compiler", "startup", *CORE[0]},
    {"signals", "border", "cluster", "machine", *CORE[1]},
    {"agreement", "files", *CORE[2]},
    {"config"},
    {"distributed", "interop", "paths", "published", *CORE[3]},
    {"sweeps", *CORE[4]},
    {"diffusions", *CORE[5]},
    CORE[6],
    CORE[7],
    CORE[8],
    {"models", "data", "metrics", *CORE[9]},
    {"state", *CORE[10]},
    {"checkpointing", "methods"},
    {"training"},
    {"validation"},
    {"experiment", "cautions"},
    {"evaluation", "unread"},
    {"plan", "report", "reproduction"},
    {"modes"},
    {"cli", "notebook"},
    {"__main__"},
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
CORE_ROOMS = {BOTTOM}.union(*CORE)
CORE_LIBRARIES = {"jax", "jaxtyping", "numpy"}

# Where each of the other libraries may be imported: files or folders of the package.
HOMES = {
    "diffrax": ("solvers/adaptive.py",),
    "flax": ("models/",),
    "equinox": ("models/adapters/eqx.py",),
    "optax": ("training/", "experiment.py", "state.py"),
    "grain": ("data/",),
    "tensorflow_datasets": ("data/",),
    "sklearn": ("data/", "evaluation/baseline.py"),
    "jinja2": ("report/",),
    "matplotlib": ("report/",),
    "orbax": ("checkpointing/storage.py",),
    "etils": ("files/buckets.py", "checkpointing/storage.py"),
    "fsspec": ("files/buckets.py",),
    "tensorboardX": ("training/writers.py",),
    "wandb": ("training/trackers.py",),
    "mlflow": ("training/trackers.py",),
    "ml_collections": ("config.py",),
    "safetensors": ("interop/safetensors_files.py",),
    "msgpack": ("interop/flax_files.py",),
    "tensorflow": (),
    "torch": (),
}


def _name(file):
    return file.relative_to(PACKAGE).as_posix()


@functools.cache
def _imported(file):
    """Every module that a file imports, at the top or inside functions, under its full dotted name."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            # `from score_sde import sampling` imports a module, whatever the form.
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _room(file):
    """The module or folder of the package that a file belongs to."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def _upward(room, imported):
    """The rooms that a room imports and that do not lie below it."""
    rooms = {name.split(".")[1] for name in imported if name.startswith("score_sde.")} - {room, "__version__"}
    return {other for other in rooms if RANK[other] >= RANK[room]}


def test_the_checks_see_the_imports_they_are_about():
    imported = {library for file in FILES for name in _imported(file) if (library := name.split(".")[0]) in HOMES}
    assert imported == {library for library, homes in HOMES.items() if homes}
    assert {_room(file) for file in FILES} == {*RANK, "__init__"}


@pytest.mark.parametrize("room", sorted(RANK))
def test_a_room_imports_only_from_rooms_below_it(room):
    imported = [name for file in FILES if _room(file) == room for name in _imported(file)]
    assert not _upward(room, imported)


def test_an_import_from_above_is_found(tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text("def late():\n    from score_sde.evaluation import base\n    import score_sde.training.loop\n")
    imported = list(_imported(planted))
    assert _upward("training", imported) == {"evaluation"}
    assert _upward("modes", imported) == set()


@pytest.mark.parametrize("file", [file for file in FILES if _room(file) in CORE_ROOMS], ids=_name)
def test_a_core_module_imports_only_jax_and_the_core(file):
    allowed = (
        CORE_LIBRARIES | sys.stdlib_module_names | ({"diffrax"} if _name(file) == "solvers/adaptive.py" else set())
    )
    for name in _imported(file):
        library, *rest = name.split(".")
        if library == "score_sde":
            assert rest[0] in CORE_ROOMS, f"{_name(file)} imports {name}, which is outside the core"
        else:
            assert library in allowed, f"{_name(file)} imports {name}"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_where_it_belongs(library):
    homes = HOMES[library]
    users = [_name(file) for file in FILES if any(name.split(".")[0] == library for name in _imported(file))]
    strangers = [user for user in users if not user.startswith(homes)] if homes else users
    assert not strangers, f"{library} is imported by {strangers}"


def test_no_file_is_longer_than_four_hundred_lines():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in HOUSE}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_no_function_body_is_longer_than_sixty_lines():
    too_long = {}
    for file in HOUSE:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if length > 60:
                too_long[f"{file.relative_to(ROOT)}:{node.name}"] = length
    assert not too_long


def _loaded_after(code):
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_the_core_loads_no_border_library():
    loaded = _loaded_after("import score_sde\nfrom score_sde import VP, likelihood, objectives, sampling, solvers")
    assert "jax" in loaded
    assert not loaded & ({*HOMES, "PIL"} - {"etils"})  # which JAX loads itself


def test_importing_the_package_or_its_command_line_does_not_load_jax():
    assert not _loaded_after("import score_sde, score_sde.cli") & {"jax", "numpy", *HOMES}


def test_the_help_on_a_field_loads_no_library():
    asked = "from score_sde.cli import main\ntry:\n    main(['--help=mesh'])\nexcept SystemExit:\n    pass"
    assert not _loaded_after(asked) & {"jax", "numpy", *HOMES}


def test_training_begins_without_the_libraries_that_it_needs_later_or_not_at_all():
    asked = "from score_sde import modes, data\nmodes.load('train')\ndata.load_source('digits', 'train')"
    later = {"diffrax", "grain", "jinja2", "matplotlib", "orbax", "scipy", "sklearn", "tensorboardX", "tensorstore"}
    assert not _loaded_after(asked) & later
