"""What a name of a configuration means is said in one registry: nothing compares it with a string."""

import ast
from pathlib import Path

import pytest

from score_sde.fields import FIELDS, GROUPS
from score_sde.fields.kinds import Choice

PACKAGE = Path(__file__).parents[1] / "score_sde"
#: Fields that choose a component by its name. Names of data begin with a prefix and end in a path.
CHOICES = {name for name, kind in FIELDS.items() if isinstance(kind, Choice) and not kind.prefixes}
TYPES = {cls.__name__: name for name, cls in GROUPS.items()}  # groups as annotations of arguments


class Comparisons(ast.NodeVisitor):
    """The comparisons of a chosen name with a string, in a function or module and what it is assigned to."""

    def __init__(self):
        self.scopes, self.found = [{}], []

    def visit_FunctionDef(self, node):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        types = {argument.arg: _last(argument.annotation) for argument in arguments}
        self.scopes.append({**self.scopes[-1], **{name: TYPES[cls] for name, cls in types.items() if cls in TYPES}})
        self.scopes[-1] |= {name: name for name in types if name in GROUPS}
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node):
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node):
        self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_Compare(self, node):
        sides = [node.left, *node.comparators]
        if any(map(_is_text, sides)):
            self.found += [(self._meant(side), node.lineno) for side in sides if self._meant(side) in CHOICES]
        self.generic_visit(node)

    def visit_Call(self, node):
        """Of ``name.startswith("...")`` and ``{"...": ...}.get(name)``."""
        if isinstance(node.func, ast.Attribute):
            asked = [node.func.value] if node.func.attr in ("startswith", "endswith") else []
            asked += node.args[:1] if node.func.attr == "get" and isinstance(node.func.value, ast.Dict) else []
            self.found += [(self._meant(side), node.lineno) for side in asked if self._meant(side) in CHOICES]
        self.generic_visit(node)

    def visit_Match(self, node):
        if self._meant(node.subject) in CHOICES:
            self.found.append((self._meant(node.subject), node.lineno))
        self.generic_visit(node)

    def visit_Subscript(self, node):
        """Of ``{"...": ...}[name]``."""
        if isinstance(node.value, ast.Dict) and self._meant(node.slice) in CHOICES:
            self.found.append((self._meant(node.slice), node.lineno))
        self.generic_visit(node)

    def _assign(self, target, value):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for name, part in zip(target.elts, value.elts, strict=False):
                self._assign(name, part)
        elif isinstance(target, ast.Name):
            self.scopes[-1][target.id] = self._meant(value)

    def _meant(self, node):
        """The group, or the field of a group, that an expression is; else something else, or ``None``."""
        if isinstance(node, ast.NamedExpr):
            return self._meant(node.value)
        if isinstance(node, ast.Name):
            return self.scopes[-1].get(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and node.args:
            return self._meant(node.args[0])
        if isinstance(node, ast.Attribute):
            inner, name = self._meant(node.value), node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            inner, name = self._meant(node.value), node.slice.value
        else:
            return None
        return f"{inner}.{name}" if inner in GROUPS and inner else name if name in GROUPS else None


def _last(annotation):
    return annotation.attr if isinstance(annotation, ast.Attribute) else getattr(annotation, "id", None)


def _is_text(node):
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)


def comparisons(source):
    visitor = Comparisons()
    visitor.visit(ast.parse(source))
    return visitor.found


def test_no_name_of_a_configuration_is_compared_with_a_string():
    found = {
        f"{file.relative_to(PACKAGE)}:{line}": field
        for file in sorted(PACKAGE.rglob("*.py"))
        for field, line in comparisons(file.read_text())
    }
    assert not found


@pytest.mark.parametrize(
    ("planted", "field"),
    [
        ("if config.sampling.predictor == 'adaptive': pass", "sampling.predictor"),
        ("if 'vae' != experiment.config.model.name: pass", "model.name"),
        (
            "def f(config):\n    sampling = config.sampling\n    return sampling.predictor in ('heun', 'ddim')",
            "sampling.predictor",
        ),
        ("def f(sampling): return sampling.corrector == 'none'", "sampling.corrector"),
        ("def f(settings: fields.Sampling): return settings.grid == 'edm'", "sampling.grid"),
        ("def f(config):\n    n, name = 3, config.sde.name\n    return name == 've'", "sde.name"),
        ("def f(config):\n    if (kind := config.objective.kind) == 'bound': return 1", "objective.kind"),
        ("x = {'vp': 1, 've': 2}[config.sde.name]", "sde.name"),
        ("x = {'vp': 1}.get(config['sde']['name'])", "sde.name"),
        ("x = config.model.name.startswith('ncsn')", "model.name"),
        ("if config.likelihood.dequantization == 'uniform': pass", "likelihood.dequantization"),
        ("def f(config):\n    return config.evaluation.extractor in ('auto', 'pixels')", "evaluation.extractor"),
        ("x = config.optim.schedule != 'constant'", "optim.schedule"),
        ("match config.sde.schedule:\n    case 'linear': pass", "sde.schedule"),
        ("fields = dict(config.parameterization)\nx = fields['variances'] == 'learned'", "parameterization.variances"),
    ],
)
def test_a_comparison_that_somebody_plants_is_found(planted, field):
    assert [name for name, _ in comparisons(planted)] == [field]


def test_a_name_that_means_something_else_may_be_compared():
    assert not comparisons("def f(solver, name):\n    return solver.predictor == 'still' or name == 've'")
