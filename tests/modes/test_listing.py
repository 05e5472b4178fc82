"""What there is to choose from is listed with a line each."""

import re

import pytest

from score_sde.cli import main
from score_sde.fields import FIELDS
from score_sde.modes.listing import listed
from score_sde.paths import config_file


def _rows(kind):
    head, *rows = listed(kind).splitlines()
    return head, dict(re.split(r"\s{2,}", row.strip(), maxsplit=1) for row in rows)


@pytest.mark.parametrize("kind", ["samplers", "correctors", "networks", "processes", "weightings", "times"])
def test_what_a_field_takes_is_listed_with_what_it_is(kind):
    head, rows = _rows(kind)
    field = FIELDS[re.search(r"config\.([\w.]+)", head)[1]]
    assert {*rows} == {*field.names} - ({"none"} if kind == "correctors" else set())
    assert all(rows.values()), rows


def test_every_listed_configuration_and_model_is_there():
    _, rows = _rows("configurations")
    assert all(config_file(name).is_file() and line for name, line in rows.items()) and "vp/toy_mlp" in rows
    _, models = _rows("models")
    assert "189" in models["digits-classes"] and "digits" in models["digits-vp"]


def test_the_command_line_lists_all_kinds_or_one(capsys):
    assert main(["--list", "samplerz"]) == 2
    assert "There is no list of 'samplerz'. Did you mean 'samplers'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--list"])
    said = capsys.readouterr().out
    assert said.startswith("configurations, by --config:\n") and "networks, by config.model.name:\n" in said
    assert "(order=2, follows=flow)" in next(line for line in said.splitlines() if line.startswith("  dpm_solver_2m "))
