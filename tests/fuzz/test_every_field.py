"""Every field with every value that its description suggests: taken and sane, or refused by name, and nothing else.

Many fields are wrong in one configuration, so that each refusal must name all of them, and no others.
"""

import faulthandler
import json
import math
import signal
import time

import pytest

from score_sde.config import default_config, from_file, leaves, nested, with_overrides
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields import FIELDS, GROUPS, Settings
from score_sde.fields.kinds import Choice, Integer, Real, Several
from tests.fuzz.values import NONSENSE, TEXTS, bad_values, good_values, typo, written

SECONDS = 60  # for one configuration on a busy machine


@pytest.fixture(autouse=True)
def no_hang():
    """End a case that hangs: by an exception where Python runs, by the end of the process where it does not."""

    def stop(*_):
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True)
    yield
    signal.alarm(0)
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, before)


def sane(value):
    """What every accepted value is, whatever the description says: finite, well below 2^63, short, and plain."""
    if type(value) in (bool, str):
        return len(str(value)) <= 4096
    if type(value) is int:
        return abs(value) < 2**33
    if type(value) is float:
        return math.isfinite(value) and abs(value) <= 1e30
    return (
        type(value) is tuple and len(value) <= 100 and all(sane(entry) and type(entry) is not bool for entry in value)
    )


def kinds_within(kind):
    return [kind, *(kinds_within(kind.of) if isinstance(kind, Several) else [])]


def test_every_field_is_described_with_bounds_that_mean_something():
    assert set(leaves(default_config())) == set(FIELDS)
    for name, kind in FIELDS.items():
        assert kind.accepts(kind.default) and sane(kind.default), name
        assert kind.meaning and kind.expected, name
        for part in kinds_within(kind):
            if isinstance(part, Integer):
                assert part.low <= part.high < 2**33, name
            elif isinstance(part, Real):
                assert math.isfinite(part.low) and math.isfinite(part.high) and part.low < part.high <= 1e30, name
            elif isinstance(part, Several):
                assert 0 <= part.lengths[0] <= part.lengths[1] <= 100, name
            elif isinstance(part, Choice):
                assert len(part.names) == len(set(part.names)), name
    for group, cls in GROUPS.items():
        assert cls.__doc__, group


def refused_names(message):
    """The fields that an error is about."""
    return {
        line.split()[0].removeprefix("config.") for line in message.replace("\n  ", "\n").splitlines() if " is " in line
    }


def as_kept(name, value):
    """A whole number in the place of a real one is that real one."""
    return float(value) if isinstance(FIELDS[name], Real) and type(value) is int else value


def outcome(check):
    """The fields that are refused, and the message."""
    try:
        check()
    except UserError as error:
        return refused_names(str(error)), str(error)
    return set(), ""


def with_values(values):
    config = default_config()
    with config.unlocked(), config.ignore_type():
        for name, value in values.items():
            group, _, field = name.rpartition(".")
            dict.__setitem__((config[group] if group else config)._fields, field, value)
    return config


def columns(values_of):
    """Configurations in which every field has one of its values; in the n-th its n-th."""
    lists = {name: list(values_of(kind)) for name, kind in FIELDS.items()}
    for index in range(max(map(len, lists.values()))):
        yield {name: values[index] for name, values in lists.items() if index < len(values)}


@pytest.mark.parametrize(
    "values_of",
    [lambda kind: NONSENSE, bad_values, good_values],
    ids=["nonsense", "beyond the bounds", "within the bounds"],
)
def test_a_value_in_a_configuration_is_sane_or_refused_by_name(values_of, capsys):
    cases = refusals = 0
    for values in columns(values_of):
        refused, message = outcome(lambda values=values: Settings.of(with_values(values)))
        assert refused <= set(values), message
        assert not {
            name: value for name, value in values.items() if name not in refused and not sane(as_kept(name, value))
        }
        assert len(message) < 1500 * max(len(refused), 1)
        if values_of is bad_values:
            assert refused == set(values), set(values) - refused
        if values_of is good_values:
            assert not refused, message
        cases, refusals = cases + len(values), refusals + len(refused)
    with capsys.disabled():
        print(f"\n{len(FIELDS)} fields, {cases} cases, {refusals} refused")


@pytest.mark.parametrize(
    "values_of",
    [lambda kind: TEXTS, lambda kind: list(map(written, good_values(kind)))],
    ids=["nonsense", "within the bounds"],
)
def test_a_value_on_the_command_line_is_sane_or_refused_by_name(values_of, capsys):
    cases = refusals = 0
    for values in columns(values_of):
        given = [f"--config.{name}={text}" for name, text in values.items()]
        refused, message = outcome(lambda given=given: with_overrides(default_config(), given))
        assert refused <= set(values), message
        config = with_overrides(default_config(), [text for text in given if text[9:].split("=")[0] not in refused])
        assert all(map(sane, leaves(config).values()))
        if values_of(FIELDS["seed"]) is not TEXTS:
            assert not refused, message
            found = leaves(config)
            assert all(as_read(found[name], text) for name, text in values.items())
        cases, refusals = cases + len(values), refusals + len(refused)
    with capsys.disabled():
        print(f"\n{len(FIELDS)} fields, {cases} cases on the command line, {refusals} refused")


def as_read(value, text):
    """Whether a value is what was written."""
    if isinstance(value, tuple):
        return all(map(as_read, value, text.split(","))) if value else not text
    return str(value) == text or (type(value) in (int, float) and value == float(text))


def test_a_misspelt_name_of_any_field_is_answered_with_the_right_one():
    for name, kind in FIELDS.items():
        part = kinds_within(kind)[-1]
        for choice in part.names if isinstance(part, Choice) else ():
            if len(choice) > 4 and not part.is_own(typo(choice)):
                value = (typo(choice),) if isinstance(kind, Several) else typo(choice)
                assert "Did you mean '" in kind.problem(name, value), (name, value)


def test_a_configuration_with_the_values_at_the_bounds_comes_back_from_its_record(tmp_path):
    for values in columns(good_values):
        config = default_config()
        config.update_from_flattened_dict(values)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config.to_dict()))
        assert leaves(from_file(path)) == leaves(config)


def test_settings_hold_the_values_of_a_configuration_with_the_types_that_their_lines_say():
    for values in columns(good_values):
        config = default_config()
        config.update_from_flattened_dict(values)
        settings = Settings.of(config)
        found = leaves(settings.to_dict())
        assert found == leaves(config) and hash(settings) == hash(Settings.of(found_again(settings)))
        for name, kind in FIELDS.items():
            assert type(found[name]) is tuple or not isinstance(kind, Several), name
            assert type(found[name]) is float or not isinstance(kind, Real), name
    assert Settings.of(default_config()) == Settings()
    # Digests of results and records of runs are made of this text.
    default = nested(leaves(default_config()))
    assert json.dumps(Settings().to_dict(), sort_keys=True) == json.dumps(default, sort_keys=True)


def found_again(settings):
    """A configuration with the values of settings."""
    config = default_config()
    config.update(settings.to_dict())
    return config


BASES = {
    "points": ({"data.name": "toy:moons", "model.name": "mlp"}, (2,), None),
    "images": (
        {"data.name": "digits", "model.attention_resolutions": (4,), "model.channel_multipliers": (1, 2)},
        (8, 8, 1),
        17,
    ),
    "autoencoder": ({"model.name": "vae", "objective.kind": "bound"}, (8, 8, 1), 17),
    "chain": ({"sde.schedule": "linear", "objective.t_min": 1e-3, "sampling.predictor": "ancestral"}, (8, 8, 1), 17),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "base", ["images", *(pytest.param(base, marks=pytest.mark.long) for base in BASES if base != "images")]
)
def test_every_value_within_the_bounds_builds_or_is_refused_by_name(base, capsys):
    """A value may not go together with others; then the message names its field."""
    (changes, shape, levels), built, refusals, longest, unnamed = BASES[base], 0, 0, 0.0, []
    for name, kind in FIELDS.items():
        for value in good_values(kind):
            config = default_config()
            config.update_from_flattened_dict({**changes, name: value})
            start = time.perf_counter()
            try:
                Experiment.from_config(config, shape, levels)
                built += 1
            except UserError as error:
                refusals += 1
                if not any(f"config.{part}" in str(error) for part in (name, *changes, "mesh is")):
                    unnamed.append(f"{name}={value}: {error}")
            signal.alarm(SECONDS)
            longest = max(longest, time.perf_counter() - start)
    assert not unnamed, "\n".join(unnamed)
    with capsys.disabled():
        print(f"\n{base}: {len(FIELDS)} fields, {built} built, {refusals} refused, the longest took {longest:.1f} s")
