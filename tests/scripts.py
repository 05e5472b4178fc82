"""Programs that are no part of the package, as modules to test."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def programs() -> list[Path]:
    """The files of experiments that are run."""
    return [path for path in sorted(EXPERIMENTS.rglob("*.py")) if "__main__" in path.read_text()]


def load_script(path: Path) -> ModuleType:
    """The module that a file is; what lies beside it can be imported meanwhile and is forgotten afterwards."""
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        for name in {file.stem for file in path.parent.glob("*.py")} - before:
            sys.modules.pop(name, None)
    return module
