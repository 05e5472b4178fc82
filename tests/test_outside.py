"""Names that point outside the package: where modules are found, what is refused, and the options of their parts."""

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from score_sde.cli import load_config
from score_sde.config import default_config, differing_fields, from_record
from score_sde.errors import UserError
from score_sde.fields import FIELDS, Settings
from score_sde.fields.kinds import Choice
from score_sde.outside.modules import begin, never_inside, object_of, search_beside
from score_sde.outside.parts import option_problems, part_of
from score_sde.solvers import Heun

MODULE = """
import dataclasses
from score_sde.solvers import Heun

@dataclasses.dataclass
class Part:
    kappa: float
    count: int = 3
    name: str = "a"
    on: bool = False
    sizes: tuple[int, ...] = (1, 2)

def part(rate: float = 1.0, free=2):
    return (rate, free)

def anything(**options):
    return options

def failing():
    return 1 / 0

heun = Heun()
"""
CONFIG = """
from score_sde.config import default_config

def get_config():
    config = default_config()
    config.sde.name = "ringparts:Part"
    config.sde.options.kappa = 2
    return config
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A configuration file with a module beside it; the current directory is another one."""
    (tmp_path / "own").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own" / "ringparts.py").write_text(MODULE)
    (tmp_path / "own" / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "elsewhere")
    begin()
    yield tmp_path / "own"
    begin()
    assert "ringparts" not in sys.modules and str(tmp_path / "own") not in sys.path


def test_a_module_beside_the_configuration_is_found_from_anywhere(folder):
    settings = load_config(folder / "config.py", ["--config.sde.options.count=5"])
    assert settings.sde.options == {"kappa": 2, "count": 5}
    made = part_of(settings.sde.name, "sde.name").made(settings.sde.options)
    assert (made.kappa, type(made.kappa), made.count) == (2.0, float, 5)


def test_a_module_in_the_current_directory_is_found(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert object_of("ringparts:heun") == Heun()


def test_the_same_name_beside_another_configuration_is_another_module(folder, tmp_path):
    search_beside(folder / "config.py")
    first = object_of("ringparts:part")
    (tmp_path / "elsewhere" / "ringparts.py").write_text("part = 7")
    search_beside(tmp_path / "elsewhere" / "config.py")
    assert object_of("ringparts:part") == 7 and first() == (1.0, 2)


def test_a_record_imports_nothing_that_lies_beside_it(folder, monkeypatch):
    """Whoever sends a directory could put a module there."""
    (folder / "ringparts.py").write_text("raise SystemError('this code ran')")
    (folder / "config.json").write_text(json.dumps(load_config(folder / "config.py", []).to_dict()))
    begin()
    monkeypatch.chdir(folder)
    settings = load_config(folder / "config.json", [])
    with pytest.raises(UserError, match="in the directory of the run, where a record may come from anybody"):
        part_of(settings.sde.name, "sde.name")


def test_a_record_imports_what_lies_where_one_starts(folder, tmp_path, monkeypatch):
    never_inside(tmp_path / "run")
    monkeypatch.chdir(folder)
    assert part_of("ringparts:part", "sde.name").value() == (1.0, 2)


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "importlib.util:find_spec", "builtins:eval"])
def test_nothing_of_pythons_own_library_is_a_part(name):
    with pytest.raises(UserError, match="Python's own library"):
        object_of(name)


def test_nothing_of_pythons_own_library_is_a_part_by_another_name(folder):
    (folder / "ringparts.py").write_text("from os import system as part")
    search_beside(folder / "config.py")
    with pytest.raises(UserError, match=r"posix.part of Python's own library|nt.part"):
        object_of("ringparts:part")


def test_an_installed_module_is_a_part_where_a_configuration_names_it_and_not_where_a_record_does(folder, tmp_path):
    """numpy.load would execute a file, if a record told it to."""
    assert object_of("numpy:load") is np.load
    never_inside(tmp_path / "run")
    with pytest.raises(UserError, match=r"numpy:load is in an installed module.* give the --config=FILE of the run"):
        object_of("numpy:load")
    assert callable(object_of("optax:lion"))
    search_beside(folder / "config.py")
    assert object_of("numpy:load") is np.load


def test_what_is_missing_is_said_with_the_nearest_name(folder):
    with pytest.raises(UserError, match=r"no module 'ringparts'.*elsewhere, or among .* give the --config=FILE beside"):
        object_of("ringparts:Part")
    with pytest.raises(UserError, match=r"no module 'ty', which ty:moons names.* Did you mean 'toy:moons'\?"):
        part_of("ty:moons", "data.name")
    search_beside(folder / "config.py")
    with pytest.raises(UserError, match=r"no module 'ringpart'.* Did you mean 'ringparts'"):
        object_of("ringpart:Part")
    with pytest.raises(UserError, match=r"ringparts.py has no 'Prat'.* Did you mean 'Part'"):
        object_of("ringparts:Prat")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "import nothing_of_this_name",
            r"ringparts:Part cannot be imported in .*ringparts.py, line 1: No module named",
        ),
        ("x = 1\nx / 0", r"ringparts:Part fails in .*ringparts.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)", "ringparts:Part fails.*SystemExit"),
        ("def (", r"ringparts:Part fails.*SyntaxError"),
    ],
)
def test_a_module_that_fails_is_the_users(folder, content, said):
    (folder / "ringparts.py").write_text(content)
    search_beside(folder / "config.py")
    with pytest.raises(UserError, match=said):
        object_of("ringparts:Part")


def test_options_have_the_types_that_the_part_declares(folder):
    search_beside(folder / "config.py")
    part = part_of("ringparts:Part", "sde.name")
    made = part.made({"kappa": 1, "on": "true", "name": 3, "sizes": (4,)})
    assert (made.kappa, made.on, made.name, made.sizes) == (1.0, True, "3", (4,))
    for options, said in (
        ({"kappa": "x"}, r"config.sde.options.kappa is 'x'; expected a value of type float, as ringparts:Part"),
        ({"kappa": 1.0, "count": 1.5}, "options.count is 1.5; expected a value of type int"),
        ({"kappa": 1.0, "on": 2}, "options.on is 2; expected a value of type bool"),
        ({}, "ringparts:Part needs config.sde.options.kappa, which is not set"),
    ):
        with pytest.raises(UserError, match=said):
            part.made(options)
    assert part_of("ringparts:part", "sde.name").made({"rate": 2, "free": 5}) == (2.0, 5)  # by its default
    assert part_of("ringparts:anything", "sde.name").made({"a": 1}) == {"a": 1}
    assert part_of("ringparts:heun", "sampling.predictor").made({}) == Heun()
    with pytest.raises(UserError, match=r"ringparts:failing fails in .*ringparts.py, line \d+: ZeroDivisionError"):
        part_of("ringparts:failing", "sde.name").made({})


def test_options_that_no_part_has_are_said_with_the_nearest_name(folder):
    search_beside(folder / "config.py")
    settings = Settings().with_("sde", name="ringparts:Part", options={"kapa": 1.0})
    assert list(option_problems(settings, "sde")) == [
        "Unknown option config.sde.options.kapa of ringparts:Part. Did you mean 'kappa'? "
        "Known: count, kappa, name, on, sizes."
    ]
    (said,) = option_problems(Settings().with_("model", options={"width": 3}), "model")
    assert said.startswith("config.model.options.width is set, and config.model names no part of your own")
    # The parts of a section share its options.
    both = {"predictor": "ringparts:part", "corrector": "ringparts:Part", "options": {"rate": 1.0, "kappa": 1.0}}
    assert not list(option_problems(Settings().with_("sampling", **both), "sampling"))
    assert not list(option_problems(Settings().with_("sde", name="ringparts:anything", options={"x": 1}), "sde"))


def test_options_pass_through_files_commands_and_records(folder):
    config = default_config()
    config.model.options.width = [1, 2]
    settings = load_config(config, ["--config.sde.options.kappa=1e-3", "--config.data.options.split=a,b"])
    assert settings.model.options == {"width": (1, 2)}
    assert (settings.sde.options["kappa"], settings.data.options["split"]) == (1e-3, "a,b")
    again = Settings.of(from_record(json.loads(json.dumps(settings.to_dict())), "a record"))
    assert again == settings and hash(again) == hash(settings)
    assert differing_fields(settings, settings.with_("sde", options={})) == ["sde.options.kappa: 0.001 -> (absent)"]
    assert "options" not in Settings().to_dict()["sde"]  # records of runs without parts of one's own stay as they were


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.sde.optoins.kappa=1", "Unknown config field 'sde.optoins.kappa'"),
        ("--config.mesh.options.kappa=1", "Unknown config field 'mesh.options.kappa'"),
        ("--config.sde.options.a.b=1", "Unknown config field 'sde.options.a.b'"),
        ("--config.sde.options.kappa=" + "x" * 5000, "expected a number, True or False, a text, or a tuple"),
        ("--config.sde.name=ringparts", r"expected one of vp, .*, or module:name of your own"),
        ("--config.sde.name=ring-parts:x", "or module:name of your own"),
        ("--config.data.name=toy:mooons", "expected one of digits.*Did you mean 'toy:moons'"),
        ("--config.likelihood.grid=ringparts:part", "expected one of uniform, quadratic, log_snr, edm"),
    ],
)
def test_fields_that_are_no_options_and_names_that_are_no_parts_are_refused(override, said):
    with pytest.raises(UserError, match=said):
        load_config(default_config(), [override])


def test_the_names_of_data_with_a_colon_keep_their_meaning():
    kind = FIELDS["data.name"]
    assert isinstance(kind, Choice)
    own = {"npz:data", "toy:moons", "folder:images", "tfds:mnist", "arrayrecord:x", "toy:nothing", "ringparts:points"}
    assert {name for name in own if kind.is_own(name)} == {"ringparts:points"}


def test_a_module_of_a_package_may_import_its_neighbors(folder):
    package = folder / "ringlab"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "nets.py").write_text("from ringlab.sizes import SIZE\ndef net(): return SIZE")
    (package / "sizes.py").write_text("SIZE = 5")
    search_beside(folder / "config.py")
    assert object_of("ringlab.inner.nets:net")() == 5


def test_the_place_of_a_failure_is_the_users_line(folder):
    text = textwrap.dedent("""
        import jax.numpy as jnp

        def part():
            return jnp.zeros(3) + jnp.zeros(2)
    """)
    (folder / "ringparts.py").write_text(text)
    search_beside(folder / "config.py")
    with pytest.raises(UserError, match=rf"{Path('ringparts.py')}, line 5: "):
        part_of("ringparts:part", "sde.name").made({})
