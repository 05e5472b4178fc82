"""The command line. It reads flags, loads the configuration file and calls one mode; errors of the user exit with 2."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from score_sde import cluster
from score_sde.errors import Preempted, UserError, nearest

if TYPE_CHECKING:
    from score_sde.config import ConfigDict

MODES = {
    "train": "train, or go on training from the newest checkpoint",
    "sample": "draw samples: samples.png, trajectory.png",
    "likelihood": "measure the held-out likelihood: likelihood.json",
    "eval": "measure checkpoints on the test split, and their samples, and tell the best: evaluation.json",
    "demo": "train, sample, measure the likelihood, and write summary.md",
    "train_dequantizer": "train noise for a tighter likelihood of a trained model: dequantizer.json",
    "latents": "encode held-out data, decode, interpolate: latents.npz, interpolation.png",
    "pareto": "find the sampler, grid and number of steps to take: pareto.md",
    "import": "make the published --checkpoint of another implementation a run",
    "export": "write the parameters for other programs: model.safetensors",
    "plan": "say what training needs and how fast it can be, from the compiled program: plan.md; trains nothing",
    "conformance": "measure the samplers where the answer is known: conformance.md; takes no --config",
    "stats": "compute the statistics of a data set that samples are compared with: statistics.npz",
    "reproduce": "measure the published results of --row again and compare: reproduction.md; takes no --config",
    "report": "write one page about a run, or several with --compare: report.html; takes no --config",
}
WITHOUT_CONFIG = ("conformance", "reproduce", "report")
TRAINING = ("train", "demo", "train_dequantizer")  # these save and end when SIGTERM comes
PATHS = ("workdir", "checkpoint")  # flags that name a place in the file system
EXAMPLES = """examples:
  python -m score_sde --config=configs/vp/digits_ddpmpp.py --workdir=runs/digits --mode=demo
  python -m score_sde --config=configs/vp/digits_ddpmpp.py --workdir=runs/digits --mode=sample \\
      --config.sampling.predictor=heun --config.sampling.num_steps=50
"""


def run() -> None:
    """The console entry: like :func:`main`, in a process set up for speed."""
    _tune_allocator()
    sys.exit(main(sys.argv[1:]))


def prepare_process() -> None:
    """Set up the process of a script for speed; to be called before JAX is loaded."""
    _tune_allocator()
    _enable_compilation_cache()


def _tune_allocator() -> None:
    """On Linux start again with huge pages for malloc, which must be chosen before the process starts.

    XLA's buffers on a CPU are fresh memory at every step, and the page faults of small pages cost about a seventh of
    a training step. Set ``GLIBC_TUNABLES`` yourself to prevent it.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and sys.argv[0]:
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def main(argv: list[str]) -> int:
    """Run one mode and return the exit code: 0, 1 for a result that is not reproduced, 2 for an error of the user's."""
    code, joined = 1, False
    try:
        options, overrides = _parse(argv)
        _log_messages()
        _enable_compilation_cache()
        if (place := cluster.requested(options)) is not None:
            cluster.connect(**place, heeds_sigterm=options.mode in TRAINING)
            joined = True
        config = _config(options, overrides, joined=joined)
        from score_sde.modes import MODES as RUN  # the heavy imports, after --help and flag errors

        command = shlex.join(["python", "-m", "score_sde", *argv])
        code = RUN[options.mode](config, Path(options.workdir), command, **_extra(options, overrides)) or 0
    except Preempted as notice:
        print(f"score_sde: {notice}", file=sys.stderr)
        code = 0
    except UserError as error:
        print(f"score_sde: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("score_sde: interrupted; the same command goes on from the newest checkpoint.", file=sys.stderr)
        code = 130
    finally:
        if joined:
            cluster.shutdown(code)
    return code


def _config_file(options: argparse.Namespace) -> Path | None:
    """The file of the configuration: the one that is given, else the record of the run in the working directory."""
    if options.config is not None or options.mode in WITHOUT_CONFIG:
        return None if options.config is None else Path(options.config)
    record = Path(options.workdir) / "config.json"
    if not record.is_file():
        raise UserError(
            f"There is no run in {options.workdir} whose configuration could be taken; give --config=FILE, a Python "
            "file that defines get_config(), or the --workdir of a run."
        )
    return record


def _config(options: argparse.Namespace, overrides: list[str], *, joined: bool) -> "ConfigDict":
    """The configuration that flags name; several processes compare it, and their flags, before they go on."""

    def prepare() -> tuple["ConfigDict", dict[str, Any]]:
        from score_sde.config import leaves

        config = load_config(_config_file(options), overrides)
        # The configuration counts, not the file that it is from.
        flags = {name: value for name, value in vars(options).items() if name not in ("config", *cluster.FLAGS)}
        places = {name: os.path.abspath(value) for name in PATHS if (value := flags.get(name)) is not None}
        return config, {**{f"--{name}": value for name, value in (flags | places).items()}, **leaves(config)}

    if not joined:
        return prepare()[0]
    from score_sde.agreement import agreed

    config = agreed(prepare, timeout=options.cluster_timeout)
    cluster.meet()
    return config


def run_script(name: str, action: Callable[[], object]) -> int:
    """Run a script of experiments; its exit code: 0, 2 for an error of the user, 130 if interrupted, which it tells."""
    _log_messages(force=True)  # over the handler that absl has put there
    try:
        action()
    except Preempted as notice:
        print(f"{name}: {notice}", file=sys.stderr)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on where it was.", file=sys.stderr)
        return 130
    return 0


def _log_messages(*, force: bool = False) -> None:
    """Tell on standard error what this package says, and of libraries errors only."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=force)
    for noisy in ("absl", "orbax", "jax", "matplotlib"):  # they report every phase of every save
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _extra(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """What a mode takes besides configuration, directory and command."""
    extra: dict[str, Any] = {} if options.checkpoint is None else {"checkpoint": Path(options.checkpoint)}
    if options.mode == "reproduce":
        extra["row"] = options.row
        extra["configure"] = lambda path, own: load_config(path, [*(f"--config.{one}" for one in own), *overrides])
    if options.compare is not None:
        extra["compare"] = tuple(Path(name) for name in options.compare.split(",") if name)
    return extra


def load_config(path: Path | None, overrides: list[str]) -> "ConfigDict":
    """The configuration of a Python file, or of a run's ``config.json``, with overrides applied, locked.

    Args:
        path: A Python file or a ``config.json``; ``None`` for the defaults.
        overrides: Arguments ``--config.a.b=value``.

    Raises:
        UserError: If the file is missing or no configuration, or an override names no field or has the wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    from score_sde.config import check_fields, default_config, from_file, leaves

    config = default_config() if path is None else from_file(path)
    check_fields(config)
    known = leaves(config)
    for argument in overrides:
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if name not in known:
            raise UserError(f"Unknown config field '{name}' in {argument}.{nearest(name, known)}")
        if not equals:
            raise UserError(f"The override {argument} has no value; expected {argument}=VALUE, now {known[name]!r}.")
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config.lock(), flag_values=values, sys_argv=["", *overrides])
    try:
        values(["score_sde", *overrides])
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"Cannot apply {' '.join(overrides)}: {str(error).splitlines()[0]}.") from error
    return config


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="score_sde",
        description="Train, sample and measure score-based generative models.",
        epilog="  --config.a.b=VALUE  override any field of the configuration\n\nmodes:\n"
        + "".join(f"  {name:<17} {text}\n" for name, text in MODES.items())
        + "\n"
        + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a Python file with get_config(), or the config.json of a run; by default that of the run in --workdir",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    parser.add_argument("--mode", required=True, metavar="MODE", help=", ".join(MODES))
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="for import and reproduce: a .pth, Flax or safetensors file, or their folder",
    )
    parser.add_argument(
        "--row", metavar="NAME", help="for reproduce: a published result, or a pattern such as 'digits/*'"
    )
    parser.add_argument("--compare", metavar="DIR[,DIR]", help="for report: other runs to show beside this one")
    cluster.add_flags(parser)
    options, rest = parser.parse_known_args(argv)
    cluster.requested(options)  # its errors come before anything is loaded
    if options.mode not in MODES:
        raise UserError(f"Unknown mode '{options.mode}'.{nearest(options.mode, MODES)} Known: {', '.join(MODES)}.")
    _check_flags(options)
    for argument in rest:
        if not argument.startswith("--config."):
            raise UserError(f"Unknown argument {argument}. Overrides look like --config.training.num_steps=1000.")
    return options, rest


def _check_flags(options: argparse.Namespace) -> None:
    """Refuse flags that a mode lacks or does not take."""
    if options.mode in WITHOUT_CONFIG and options.config is not None:
        raise UserError(f"--config=FILE is for every mode but {', '.join(WITHOUT_CONFIG)}, which take none.")
    if options.mode not in ("import", "reproduce") and options.checkpoint is not None:
        raise UserError(
            f"--checkpoint is for --mode=import and --mode=reproduce, not for {options.mode}; leave it out."
        )
    if options.mode == "import" and options.checkpoint is None:
        raise UserError("--mode=import takes the file to import as --checkpoint=FILE.")
    if (options.mode == "reproduce") != (options.row is not None):
        raise UserError("--mode=reproduce takes the result to reproduce as --row=NAME, and no other mode takes one.")
    if options.mode != "report" and options.compare is not None:
        raise UserError("--compare=DIR is for --mode=report; leave it out.")


def _enable_compilation_cache() -> None:
    """Keep compiled programs between processes; JAX_COMPILATION_CACHE_DIR moves them, empty switches it off."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "score_sde"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
