"""The command line. It reads flags, loads the configuration file and calls one mode; errors of the user exit with 2."""

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from score_sde import cluster
from score_sde.border import FAULT, RAISE, ended, software
from score_sde.errors import UserError, nearest
from score_sde.fields import FIELDS, Settings
from score_sde.modes import GROUPS, TABLE
from score_sde.outside.modules import begin
from score_sde.paths import config_file, place, typed, typed_fields, whole
from score_sde.signals import heeded
from score_sde.startup import (
    hand_over_signals,
    keep_compiled_programs,
    keep_imported,
    quiet_compiler,
    return_freed_memory,
)

if TYPE_CHECKING:
    from score_sde.config import ConfigDict
    from score_sde.sweeps import Run

#: The modes with one sentence each.
MODES = {name: mode.text for name, mode in TABLE.items()}
WITHOUT_CONFIG = tuple(name for name, mode in TABLE.items() if not mode.takes_config)
TRAINING = tuple(name for name, mode in TABLE.items() if mode.trains)
#: Modes that read a run, or none, and write results, which may go elsewhere.
RESULTS = tuple(name for name, mode in TABLE.items() if mode.takes_out)
PATHS = ("workdir", "out", "checkpoint")  # flags that name a place in the file system
EXAMPLES = """examples:
  python -m score_sde --config=configs/vp/digits_ddpmpp.py --workdir=runs/digits --mode=demo
  python -m score_sde --config=configs/vp/digits_ddpmpp.py --workdir=runs/digits --mode=sample \\
      --config.sampling.predictor=heun --config.sampling.num_steps=50
"""
CONFIG_HELP = (
    "a Python file with get_config(), one of the package such as vp/digits_ddpmpp, or the config.json of a run; "
    "by default that of the run in --workdir"
)
FIELD_HELP = "show this text; with FIELD, such as sampling.snr or sampling, what it may be, means, and where it is read"
LIST_HELP = "what there is to choose from, a line each; KIND is configurations, samplers, networks, models, ..."
ENVIRONMENT = f"""environment:
  JAX_PLATFORMS=cpu              devices to use; unset for the best there are
  JAX_COMPILATION_CACHE_DIR=DIR  where compiled programs are kept; empty for nowhere
  TF_CPP_MIN_LOG_LEVEL=0         show what the compiler writes about itself
  XLA_FLAGS=...                  of the compiler, which ends the program at once if it does not know one
  GLIBC_TUNABLES=...             of malloc; set it to prevent huge pages
  {RAISE}=1          raise a bug of the program as it is, with its traceback
"""

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run one mode and return the exit code.

    The exit code is 0 on success, 1 for a result that is not reproduced or a bug in the program, 2 for an error of the
    user, 130 after an interruption, 143 after SIGTERM.
    """
    options, code, joined = None, FAULT, False
    try:
        _log_messages()
        options, overrides = _parse(argv)
        begin()
        if (reason := keep_compiled_programs()) is not None:
            log.warning("%s", reason)
        heeds_sigterm = options.mode in TRAINING
        if (where := cluster.requested(options)) is not None:
            cluster.connect(**where, heeds_sigterm=heeds_sigterm)
            joined = True
        else:
            quiet_compiler()  # with several processes, JAX names the failed one there
        config, runs = _config(options, overrides, joined=joined)
        from score_sde import modes

        modes.load(options.mode)  # the heavy imports, after --help and flag errors
        from score_sde.modes.record import check_places

        keep = frozenset({signal.SIGTERM}) if joined and heeds_sigterm else frozenset()
        hand_over_signals(keep=keep)
        keep_imported()
        return_freed_memory()
        _say_what_is_unread(config, options, overrides, runs)
        command, extra = shlex.join(["python", "-m", "score_sde", *argv]), _extra(options, overrides, runs)
        check_places(place(options.workdir), extra.get("out"))
        with heeded(keep=keep):
            code = modes.MODES[options.mode](config, place(options.workdir), command, **extra) or 0
    except (Exception, KeyboardInterrupt) as error:
        doing = "Reading the command line" if options is None else f"--mode={options.mode}"
        code = ended(error, doing=doing, directory=None if options is None else place(options.workdir))
    finally:
        if joined:
            cluster.shutdown(code)
    return code


def _given(options: argparse.Namespace) -> "Path | ConfigDict | None":
    """The configuration to override: the given file, else the one of the run in the working directory."""
    if options.config is not None or options.mode in WITHOUT_CONFIG:
        return None if options.config is None else config_file(options.config)
    from score_sde.checkpointing import newest_config
    from score_sde.config import from_record

    workdir = place(options.workdir)
    if (recorded := newest_config(workdir)) is None:
        if options.mode == "import":
            from score_sde.modes.models import config_of

            return config_of(options.checkpoint)
        raise UserError(
            f"There is no run in {workdir} whose configuration could be taken; give --config=FILE, a Python "
            "file that defines get_config(), or the --workdir of a run."
        )
    return from_record(recorded, f"the record of the run in {workdir}", workdir)


def _config(options: argparse.Namespace, overrides: list[str], *, joined: bool) -> tuple[Settings, "tuple[Run, ...]"]:
    """The configuration that flags name, and the runs of a sweep.

    Several processes compare them, and their flags, before they go on.
    """

    def prepare() -> tuple[Any, dict[str, Any]]:
        from score_sde.config import leaves

        given = _given(options)
        config, runs = load_config(given, overrides), ()
        if options.mode == "sweep":
            from score_sde.sweeps import planned

            runs = planned(given, overrides)
        # The configuration counts, not its file.
        flags = {name: value for name, value in vars(options).items() if name not in ("config", *cluster.FLAGS)}
        places = {name: whole(value) for name in PATHS if (value := flags.get(name)) is not None}
        fields = leaves(config) | {f"run {number}": run.name for number, run in enumerate(runs)}
        return (config, runs), {**{f"--{name}": value for name, value in (flags | places).items()}, **fields}

    if not joined:
        return prepare()[0]
    from score_sde.agreement import agreed

    shared = place(options.workdir) if options.mode in (*TRAINING, "import") else None
    found = agreed(prepare, timeout=options.cluster_timeout, shared=shared)
    cluster.meet()
    return found


def _say_what_is_unread(
    config: Settings, options: argparse.Namespace, overrides: list[str], runs: "tuple[Run, ...]"
) -> None:
    """Warn of fields that were set but have no effect beside the others."""
    from score_sde.unread import unread
    from score_sde.validation import purposes_of

    said: dict[str, None] = {}
    for settings, given in [(run.settings, run.overrides) for run in runs] or [(config, overrides)]:
        typed = {one.removeprefix("--config.").partition("=")[0] for one in given}
        purposes = frozenset().union(*(purposes_of(mode, settings) for mode in _each(options)))
        said |= dict.fromkeys(unread(settings, purposes, typed))
    for sentence in said:
        log.warning("%s", sentence)


def _each(options: argparse.Namespace) -> list[str]:
    """The modes that a command runs: one, or those of every run of a sweep."""
    return str(options.each or "train").split(",") if options.mode == "sweep" else [str(options.mode)]


def run_script(name: str, action: Callable[[], object]) -> int:
    """Run a script of experiments and return its exit code, as :func:`main` does."""
    _log_messages(force=True)  # over the handler of absl
    try:
        action()
    except (Exception, KeyboardInterrupt) as error:
        return ended(error, name=name, doing=name)
    return 0


def _log_messages(*, force: bool = False) -> None:
    """Log the messages of this package, and only the errors of libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if not os.environ.get(RAISE):  # an exception that a library logs before it raises it is told once, at the border
        handler.addFilter(lambda record: record.exc_info is None or record.name.startswith("score_sde"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=force)
    # They report every phase of every save.
    for noisy in ("absl", "orbax", "jax", "matplotlib", "aiobotocore", "gcsfs", "azure"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _extra(options: argparse.Namespace, overrides: list[str], runs: "tuple[Run, ...]") -> dict[str, Any]:
    """The arguments of a mode besides configuration, directory and command."""
    extra: dict[str, Any] = {} if options.checkpoint is None else {"checkpoint": Path(options.checkpoint)}
    if options.mode == "sweep":
        from score_sde.sweeps import index_of

        index = None if options.index is None else index_of(options.index, runs)
        extra |= {"file": config_file(options.config), "runs": runs, "each": _each(options), "index": index}
    if options.mode == "reproduce":
        extra["row"] = options.row
        extra["configure"] = lambda path, own: load_config(path, [*(f"--config.{one}" for one in own), *overrides])
    if options.out is not None:
        extra["out"] = place(options.out)
    if options.compare is not None:
        names = [typed(name, "--compare", bucket=True) for name in options.compare.split(",") if name]
        extra["compare"] = tuple(map(place, names))
    return extra


def load_config(given: "Path | ConfigDict | None", overrides: list[str]) -> Settings:
    """The configuration of a Python file, or of a run's ``config.json``, with overrides applied, as settings.

    Raises:
        UserError: If the file is missing or not a configuration, or a field does not exist or has an invalid value.
    """
    from score_sde.config import default_config, from_file, with_overrides

    config = default_config() if given is None else from_file(given) if isinstance(given, Path) else given
    return typed_fields(with_overrides(config, overrides))


class _Once(argparse.Action):
    """Store a value, and refuse a second, different one, which would silently drop the first."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        before = getattr(namespace, self.dest, None)
        if before not in (None, self.default, values):
            parser.error(f"--{self.dest} is given twice, as {before} and as {values}")
        setattr(namespace, self.dest, values)


class _Help(argparse.Action):
    """Print all flags and modes, or the description of a field, and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        from score_sde.fields.reference import help_on

        print(help_on(values) if values else parser.format_help())
        parser.exit()


class _List(argparse.Action):
    """Print what there is to choose from, and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        from score_sde.modes.listing import listed

        print(listed(values or ""))
        parser.exit()


class _Version(argparse.Action):
    """Print the versions that a bug report needs, and end; argparse's own action hides that nobody reads them."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(software())
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """A parser that raises a UserError for a bad command line."""

    def error(self, message: str) -> NoReturn:
        """Refuse."""
        raise UserError(f"{message[:1].upper()}{message[1:]}. --help lists flags and modes.")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
        prog="score_sde",
        description="Train, sample and measure score-based generative models.",
        epilog="  --config.a.b=VALUE  override any field of the configuration\n\nmodes:\n"
        + "".join(
            "".join([f"  to {purpose}:\n", *(f"    {name:<17} {mode.text}\n" for name, mode in group.items())])
            for purpose, group in GROUPS.items()
        )
        + f"\n{EXAMPLES}\n{ENVIRONMENT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.register("action", None, _Once)
    parser.add_argument(
        "-h", "--help", action=_Help, nargs="?", default=argparse.SUPPRESS, metavar="FIELD", help=FIELD_HELP
    )
    parser.add_argument("--list", action=_List, nargs="?", default=argparse.SUPPRESS, metavar="KIND", help=LIST_HELP)
    parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    parser.add_argument("--out", metavar="DIR", help="where results go, if not to --workdir, which is then only read")
    parser.add_argument("--mode", required=True, metavar="MODE", help=", ".join(MODES))
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="for import and reproduce: a .pth, Flax or safetensors file, or their folder; for import also the name of "
        "a pretrained model",
    )
    parser.add_argument(
        "--row", metavar="NAME", help="for reproduce: a published result, or a pattern such as 'digits/*'"
    )
    parser.add_argument("--each", metavar="MODE[,MODE]", help="for sweep: the modes that each run goes through (train)")
    parser.add_argument("--index", metavar="I", help="for sweep: run I alone, from 0, such as $SLURM_ARRAY_TASK_ID")
    parser.add_argument("--compare", metavar="DIR[,DIR]", help="for report: other runs to show beside this one")
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the versions of program and libraries",
    )
    cluster.add_flags(parser)
    if not argv:
        parser.print_help(sys.stderr)
        raise UserError("--mode=MODE and --workdir=DIR are needed at least; all flags and modes are listed above.")
    options, rest = parser.parse_known_args(argv)
    cluster.requested(options)  # its errors come before anything is loaded
    if options.mode not in MODES:
        raise UserError(f"Unknown mode '{options.mode}'.{nearest(options.mode, MODES)} Known: {', '.join(MODES)}.")
    _check_flags(options, rest)
    for name in PATHS:
        if (given := getattr(options, name)) is not None:
            setattr(options, name, typed(given, f"--{name}", bucket=name != "checkpoint"))
    return options, _overrides(rest, vars(options))


def _overrides(rest: list[str], flags: Iterable[str]) -> list[str]:
    """The overrides ``--config.NAME=VALUE`` or ``--config.NAME VALUE`` among the arguments that are not flags."""
    found: list[str] = []
    for argument in rest:
        if found and "=" not in found[-1] and not argument.startswith("--"):
            found[-1] += f"={argument}"
        elif argument.startswith("--config."):
            found.append(argument)
        else:
            hint = _nearest_flag(argument.partition("=")[0], flags)
            raise UserError(f"Unknown argument {argument}.{hint} Overrides look like --config.training.num_steps=1000.")
    last: dict[str, str] = {}
    for argument in found:
        name, _, value = argument.partition("=")
        if last.setdefault(name, value) != value:
            log.warning("%s is given twice, as %s and as %s; the last one counts.", name, last[name], value)
        last[name] = value
    return found


def _nearest_flag(name: str, flags: Iterable[str]) -> str:
    """A clause that suggests fields with the same last word, or else the flag or field with the nearest spelling."""
    fields = [f"--config.{field}" for field in sorted(FIELDS)]
    same = [field for field in fields if field.rpartition(".")[2] == name.lstrip("-")]
    return f" Did you mean {' or '.join(same)}?" if same else nearest(name, [*(f"--{flag}" for flag in flags), *fields])


def _check_flags(options: argparse.Namespace, rest: list[str]) -> None:
    """Refuse flags that a mode lacks or does not take."""
    if options.mode in ("conformance", "report") and any(one.startswith("--config.") for one in rest):
        raise UserError(f"--mode={options.mode} reads no field of a configuration; leave the overrides out.")
    if options.mode in WITHOUT_CONFIG and options.config is not None:
        raise UserError(f"--config=FILE is for every mode but {', '.join(WITHOUT_CONFIG)}, which take none.")
    if options.mode not in ("import", "reproduce") and options.checkpoint is not None:
        raise UserError(
            f"--checkpoint is for --mode=import and --mode=reproduce, not for {options.mode}; leave it out."
        )
    if options.mode == "import" and options.checkpoint is None:
        raise UserError("--mode=import takes what to import as --checkpoint=FILE, a folder, or a pretrained model.")
    if (options.mode == "reproduce") != (options.row is not None):
        raise UserError("--mode=reproduce takes the result to reproduce as --row=NAME, and no other mode takes one.")
    if options.mode not in RESULTS and options.out is not None:
        raise UserError(f"--out=DIR is for the modes {', '.join(RESULTS)}, not for {options.mode}; leave it out.")
    if options.mode != "sweep" and (options.each is not None or options.index is not None):
        raise UserError("--each=MODE and --index=I are for --mode=sweep; leave them out.")
    if options.mode == "sweep":
        _check_sweep(options)
    if options.mode != "report" and options.compare is not None:
        raise UserError("--compare=DIR is for --mode=report; leave it out.")


def _check_sweep(options: argparse.Namespace) -> None:
    """Refuse a sweep without a configuration file, and of modes that are of no single run."""
    if options.config is None:
        raise UserError("--mode=sweep takes its runs from sweep() in a configuration file; give --config=FILE.")
    known = [mode for mode in MODES if mode not in (*WITHOUT_CONFIG, "import", "sweep")]
    for mode in _each(options):
        if mode not in known:
            raise UserError(f"--each names '{mode}'.{nearest(mode, known)} Expected some of {', '.join(known)}.")
