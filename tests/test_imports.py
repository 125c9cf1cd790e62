"""The package's files import one way, from the top of the ladder down.

Every rule is checked on the syntax trees of all files, so imports inside functions
count as well. The last tests break each rule on purpose in a synthetic package.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from skorch import NeuralNet
from torch.nn import Module

ROOT = Path(__file__).resolve().parents[1] / "sksetsens"

# The rung of every file: it imports from lower rungs only. `folder/*` is all of a
# folder, whose files may import each other as long as there is no cycle; a file's own
# entry comes before its folder's.
LADDER = {
    "__init__": 11,
    "inspection/*": 10,
    "_sensitivity": 9,
    "_estimator": 9,
    "_answers": 8.5,
    "_set_prediction": 8,
    "inverse": 8,
    "stability": 8,
    "sensitivity_curve": 8,
    "convergence": 8,
    "inclusion": 8,
    "_local_sets": 7,
    "linear_range": 7,
    "path": 7,
    "_prediction": 7,
    "_lipschitz_modulus": 7,
    "_question": 6,
    "_training": 6,
    "empirical": 6,
    "_restarts": 5,
    "_restart_cache": 4.8,
    "_restart": 4.5,
    "_linearise": 5,
    "_perturbed_data": 5,
    "metrics/__init__": 5,
    "metrics/_scorers": 5,
    "_continuation": 5,
    "moduli": 5,
    "predicted_set": 5,
    "_diagnosis": 4,
    "_reach": 4,
    "closed_form": 4,
    "_goals": 4,
    "coderivative": 4,
    "criterion": 5,
    "lipschitz": 4,
    "solution_set": 4,
    "perturbations": 4,
    "_stationarity": 4,
    "derivatives": 3,
    "_copies": 3,
    "_restored": 3,
    "metrics/_distance": 3,
    "_levenberg_marquardt": 3,
    "_relative_stationarity": 2,
    "_trust_region": 2,
    "_systems/*": 2,
    "metrics/_truncation": 2,
    "symmetries": 2,
    "linalg/*": 1,
    "_objective/*": 1,
    "_architecture": 1,
    "exceptions": 0,
    "_compat": 0,
    "_version": 0,
    "_fingerprint": 0,
    "_interrupts": 0,
    "_isolation": 0,
    "_peeling": 0,
    "_memory_errors": 0,
    "_progress": 0,
    "_surviving": 0,
    "_storage": 0,
    "_training_data": 0,
    "networks/*": 0,
    "datasets/*": 0,
    "_callers": -1,
    "_checks": -1,
}

RULES = (
    "every file has a rung",
    "imports go down the ladder",
    "nothing imports the package root",
    "no import cycles",
    "matplotlib is imported lazily",
    "private names of scikit-learn and skorch are in _compat",
    "no assert",
    "no print",
)
HAS_RUNG, DOWN, ROOT_FREE, ACYCLIC, LAZY, COMPAT, NO_ASSERT, NO_PRINT = RULES

LAZY_LIBRARIES = {"matplotlib", "mpl_toolkits"}
WRAPPED_LIBRARIES = {"sklearn", "skorch"}
# Private methods of a skorch net, short of those that torch modules have too.
PRIVATE_METHODS = {
    name
    for name in set(dir(NeuralNet)) - set(dir(Module)) - {"_modules"}
    if name.startswith("_") and not name.startswith("__")
}


@dataclass(frozen=True)
class Import:
    """One imported name: ``from module import name``, or ``import module``."""

    module: str
    name: str | None
    bound: str  # the name it gives the module or object in the file
    line: int
    lazy: bool  # inside a function


@dataclass
class File:
    """One parsed file of the package."""

    key: str  # its path in the package, as in the ladder
    name: str  # its dotted module name
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)

    @property
    def folder(self):
        return self.key.rpartition("/")[0]


def read_package(root):
    """All files of the package at `root`, by module name."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        key = path.relative_to(root).with_suffix("").as_posix()
        parts = [root.name, *key.split("/")]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        file = File(key, name, ast.parse(path.read_text(encoding="utf-8"), str(path)))
        base = parts[:-1]  # where one leading dot points
        file.imports = list(find_imports(file.tree, base, lazy=False))
        files[name] = file
    return files


def find_imports(node, base, lazy) -> Iterator[Import]:
    """All imports below `node`, relative ones resolved against the package `base`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                bound = alias.asname or alias.name.partition(".")[0]
                # `import a.b` binds a, `import a.b as c` binds a.b.
                yield Import(alias.name, None, bound, child.lineno, lazy)
        elif isinstance(child, ast.ImportFrom):
            start = base[: len(base) - child.level + 1] if child.level else []
            module = ".".join([*start, *filter(None, [child.module])])
            for alias in child.names:
                bound = alias.asname or alias.name
                yield Import(module, alias.name, bound, child.lineno, lazy)
        elif is_dynamic_import(child):
            target = child.args[0].value
            if target.startswith("."):
                dots = len(target) - len(target.lstrip("."))
                start = base[: len(base) - dots + 1]
                target = ".".join([*start, target.lstrip(".")])
            yield Import(target, None, "", child.lineno, lazy)
        function = isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        yield from find_imports(child, base, lazy or function)


def is_dynamic_import(node):
    """Whether `node` calls import_module or __import__ on a literal."""
    if not (isinstance(node, ast.Call) and node.args):
        return False
    called = getattr(node.func, "attr", getattr(node.func, "id", None))
    argument = node.args[0]
    return (
        called in {"import_module", "__import__"}
        and isinstance(argument, ast.Constant)
        and isinstance(argument.value, str)
    )


def rung_of(key, ladder):
    """Rung of a file, None where the ladder does not name it."""
    if key in ladder:
        return ladder[key]
    parts = key.split("/")[:-1]
    for end in range(len(parts), 0, -1):
        folder = "/".join([*parts[:end], "*"])
        if folder in ladder:
            return ladder[folder]
    return None


def target_of(imported, files, package):
    """Name of the file of the package that an import reads, None if outside."""
    if imported.module.partition(".")[0] != package:
        return None
    if imported.name and f"{imported.module}.{imported.name}" in files:
        return f"{imported.module}.{imported.name}"
    name = imported.module
    while name not in files and "." in name:
        name = name.rpartition(".")[0]
    return name


def internal_imports(files, package) -> Iterator[tuple[File, File, Import]]:
    """Each import of one file of the package by another."""
    for file in files.values():
        for imported in file.imports:
            target = target_of(imported, files, package)
            if target in files:
                yield file, files[target], imported


def find_violations(root, ladder):
    """Sentences per rule, each naming file and line."""
    files, package = read_package(root), root.name
    found = {rule: [] for rule in RULES}
    for file in files.values():
        if rung_of(file.key, ladder) is None:
            found[HAS_RUNG].append(f"{file.key}: give it a rung in LADDER")
        found[LAZY] += eager_imports(file)
        if file.key != "_compat":
            found[COMPAT] += private_names(file)
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Assert):
                found[NO_ASSERT].append(f"{file.key}:{node.lineno}: assert")
            if isinstance(node, ast.Name) and node.id == "print":
                found[NO_PRINT].append(f"{file.key}:{node.lineno}: print")
    for file, target, imported in internal_imports(files, package):
        where = f"{file.key}:{imported.line}"
        # `import package.module` binds the root too, and all that hangs on it.
        if target.name == package or imported.bound == package:
            found[ROOT_FREE].append(f"{where}: imports {package} itself")
        elif not goes_down(file, target, ladder):
            found[DOWN].append(f"{where}: imports {target.key}, on no lower rung")
    found[ACYCLIC] = [" -> ".join(cycle) for cycle in find_cycles(files, package)]
    return found


def goes_down(file, target, ladder):
    """Whether the ladder allows `file` to import `target`."""
    above, below = rung_of(file.key, ladder), rung_of(target.key, ladder)
    if above is None or below is None:
        return True  # reported as a file without a rung
    same_folder = file.folder and file.folder == target.folder
    return below < above or (below == above and same_folder)


def eager_imports(file) -> Iterator[str]:
    """Imports outside functions of libraries that must be imported inside."""
    for imported in file.imports:
        library = imported.module.partition(".")[0]
        if library in LAZY_LIBRARIES and not imported.lazy:
            yield f"{file.key}:{imported.line}: imports {library} at module level"


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def private_names(file) -> Iterator[str]:
    """Private names of wrapped libraries that a file imports or reaches into."""
    wrapped = {}
    for imported in file.imports:
        path = ".".join(filter(None, [imported.module, imported.name]))
        if path.partition(".")[0] in WRAPPED_LIBRARIES:
            wrapped[imported.bound] = path
            if any(map(is_private, path.split("."))):
                yield f"{file.key}:{imported.line}: imports {path}"
    for node in ast.walk(file.tree):
        if not (isinstance(node, ast.Attribute) and is_private(node.attr)):
            continue
        owner = node.value
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        name = owner.id if isinstance(owner, ast.Name) else ""
        # A class of the package may call its own methods what it likes.
        foreign_method = node.attr in PRIVATE_METHODS and name not in {"self", "cls"}
        if name in wrapped or foreign_method:
            yield f"{file.key}:{node.lineno}: reaches into {ast.unparse(node)}"


def find_cycles(files, package):
    """Cycles among the files, those through a folder's __init__ included.

    Importing ``folder.module`` at module level runs ``folder/__init__`` first; only
    the importing file's own parents are already running then.
    """
    edges = {name: set() for name in files}
    for file, target, imported in internal_imports(files, package):
        edges[file.name].add(target.name)
        parent = target.name.rpartition(".")[0]
        while not imported.lazy and parent in files:
            if not f"{file.name}.".startswith(f"{parent}."):
                edges[file.name].add(parent)
            parent = parent.rpartition(".")[0]

    cycles, done = [], set()

    def visit(name, path):
        if name in path:
            cycles.append([*path[path.index(name) :], name])
        elif name not in done:
            for following in sorted(edges[name]):
                visit(following, [*path, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return cycles


@pytest.fixture(scope="module")
def violations():
    return find_violations(ROOT, LADDER)


@pytest.mark.parametrize("rule", RULES)
def test_package_follows_rule(violations, rule):
    assert not violations[rule], f"{rule}:\n" + "\n".join(violations[rule])


# A package that keeps every rule, and what to add to a file to break one.
SOUND = {
    "__init__": "from .top import top\n",
    "top": "from pkg.folder import a\n\nfrom .middle import middle\n",
    "middle": (
        "from sklearn.base import clone\n"
        "from .folder.a import a\n"
        "def draw():\n    import matplotlib.pyplot as plt\n    from . import leaf\n"
    ),
    "folder/__init__": "from .a import a\n",
    "folder/a": "from .b import b\nfrom ..leaf import leaf\n",
    "folder/b": "import sklearn\nsklearn.__version__\nself._initialize_module\n",
    "leaf": "import pkg._compat as compat\n",
    "other_leaf": '"""print and assert in words."""\n',
    "_compat": "from sklearn.utils._tags import get_tags\n",
}
SOUND_LADDER = {
    "__init__": 4,
    "top": 3,
    "middle": 2,
    "folder/*": 1,
    "leaf": 0.5,
    "other_leaf": 0.5,
    "_compat": 0,
}
IN_FUNCTION = "def f():\n    {}\n"
BREACHES = [
    ("new", "", HAS_RUNG, "new: give it a rung"),
    ("folder/deep/new", "", None, None),  # a folder's rung covers what is below it
    ("leaf", "from .middle import middle\n", DOWN, "imports middle"),
    ("leaf", IN_FUNCTION.format("from .top import x"), DOWN, "imports top"),
    ("leaf", "from . import top\n", DOWN, "imports top"),
    ("leaf", "from .other_leaf import x\n", DOWN, "imports other_leaf"),
    ("folder/a", "from ..middle import x\n", DOWN, "folder/a:3: imports middle"),
    ("folder/b", "from pkg.top import x\n", DOWN, "imports top"),
    ("folder/b", "import pkg.top as t\n", DOWN, "imports top"),
    ("_compat", "from .folder import a\n", DOWN, "imports folder/a"),
    ("leaf", "importlib.import_module('pkg.top')\n", DOWN, "imports top"),
    ("folder/b", "importlib.import_module('..top', 'x')\n", DOWN, "imports top"),
    ("leaf", "class C:\n    if x:\n        from .top import y\n", DOWN, "imports top"),
    ("leaf", "import pkg\n", ROOT_FREE, "leaf:2: imports pkg itself"),
    ("leaf", "import pkg._compat\n", ROOT_FREE, "imports pkg itself"),
    ("leaf", "from pkg import version\n", ROOT_FREE, "imports pkg itself"),
    ("folder/b", IN_FUNCTION.format("from .. import x"), ROOT_FREE, "imports pkg"),
    ("folder/b", "from .a import a\n", ACYCLIC, "pkg.folder.b -> pkg.folder.a"),
    ("folder/b", IN_FUNCTION.format("from . import a"), ACYCLIC, "pkg.folder.b"),
    ("folder/a", "from . import x\n", ACYCLIC, "pkg.folder.a -> pkg.folder"),
    ("leaf", "import matplotlib.pyplot as plt\n", LAZY, "leaf:2: imports matplotlib"),
    ("leaf", "try:\n    from matplotlib import cm\nexcept E:\n    x\n", LAZY, "leaf:3"),
    ("leaf", "class C:\n    import mpl_toolkits\n", LAZY, "mpl_toolkits"),
    ("leaf", "from sklearn.utils._tags import x\n", COMPAT, "sklearn.utils._tags.x"),
    ("leaf", "from sklearn.base import _fit_context\n", COMPAT, "_fit_context"),
    ("leaf", "import sklearn.utils._set_output as s\n", COMPAT, "_set_output"),
    ("leaf", IN_FUNCTION.format("from skorch.net import _x"), COMPAT, "skorch.net._x"),
    ("leaf", "import sklearn\nsklearn.utils._tags.x\n", COMPAT, "sklearn.utils._tags"),
    ("leaf", "from skorch import net as n\nn._x()\n", COMPAT, "reaches into n._x"),
    ("leaf", "net._initialize_module('')\n", COMPAT, "net._initialize_module"),
    ("leaf", IN_FUNCTION.format("assert x"), NO_ASSERT, "leaf:3: assert"),
    ("leaf", IN_FUNCTION.format("print(1)"), NO_PRINT, "leaf:3: print"),
]


def write_package(root, sources):
    for key, source in sources.items():
        path = root / f"{key}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_walker_accepts_a_sound_package(tmp_path):
    write_package(tmp_path / "pkg", SOUND)
    assert not any(find_violations(tmp_path / "pkg", SOUND_LADDER).values())


@pytest.mark.parametrize(("key", "source", "rule", "message"), BREACHES)
def test_walker_finds_each_breach(tmp_path, key, source, rule, message):
    write_package(tmp_path / "pkg", SOUND | {key: SOUND.get(key, "") + source})
    found = find_violations(tmp_path / "pkg", SOUND_LADDER)
    if rule is None:
        assert not any(found.values())
        return
    assert any(re.search(re.escape(message), text) for text in found[rule]), found
    # An upward import may close a cycle as well; no other rule fires.
    assert {r for r in RULES if found[r]} <= {rule, ACYCLIC}


def test_walker_finds_a_cycle_through_a_folder(tmp_path):
    """A low file in a folder whose __init__ is high drags that __init__ in."""
    sources = {
        "__init__": "",
        "low": "from .folder.leaf import leaf\n",
        "folder/__init__": "from .high import high\n",
        "folder/high": "from ..low import low\n",
        "folder/leaf": "",
    }
    ladder = {"__init__": 3, "folder/__init__": 2, "folder/high": 2, "low": 1}
    write_package(tmp_path / "pkg", sources)
    found = find_violations(tmp_path / "pkg", ladder | {"folder/leaf": 0})
    assert found.pop(ACYCLIC) == [
        "pkg.folder -> pkg.folder.high -> pkg.low -> pkg.folder"
    ]
    assert not any(found.values())
