"""The package is laid out as the data flows: a package a stage, which imports from the stages before it alone."""

import ast
import re
from pathlib import Path

import pytest
import refmap

PACKAGE = Path(__file__).resolve().parents[2] / "bin/refmap"
# From the bottom to the top: each package may import from itself and from those before it.
ORDER = re.findall(r"`(\w+)`", refmap.__doc__)


def named(path: Path) -> tuple[str, ...]:
    """A module by the packages that it lies in and its name, such as ('query', 'genes'); a package by itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {named(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
    """The line and the module of all imports from within refmap, those within functions and those for types too."""
    path, found = MODULES[module], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [(tuple(alias.name.split(".")), ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ("refmap", *module) if path.name == "__init__.py" else ("refmap", *module)[:-1]
            start = here[: len(here) - node.level + 1] if node.level else ()
            start += tuple(node.module.split(".")) if node.module else ()
            names = [(start, (alias.name,)) for alias in node.names]
        else:
            continue
        for start, name in names:
            if start[:1] == ("refmap",):
                inner = start[1:] + name
                found.append((node.lineno, inner if inner in MODULES else start[1:]))
    return found


IMPORTS = {module: imports_of(module) for module in MODULES}


def test_every_module_lies_in_a_package_of_the_order():
    assert {module[:1] for module in MODULES} == {(), *((package,) for package in ORDER)}
    assert all(MODULES[(package,)].name == "__init__.py" for package in ORDER)


@pytest.mark.parametrize("module", MODULES, ids="/".join)
def test_every_package_and_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_down(package):
    below = ORDER[: ORDER.index(package) + 1]
    up = [
        f"{MODULES[module].relative_to(PACKAGE)}:{line} imports {'.'.join(target)}"
        for module in MODULES
        if module[:1] == (package,)
        for line, target in IMPORTS[module]
        if target and target[0] not in below
    ]
    assert not up, up


def test_what_is_imported_is_there():
    """An import for types alone never runs."""
    lost = [f"{'.'.join(module)}:{line}" for module in MODULES for line, target in IMPORTS[module] if target not in MODULES]
    assert not lost, lost


def test_no_modules_import_each_other_in_a_circle():
    open_, done = [], set()

    def follow(module):
        assert module not in open_, " -> ".join(map(".".join, [*open_[open_.index(module) :], module]))
        if module not in done:
            open_.append(module)
            for _line, target in IMPORTS[module]:
                follow(target)
            done.add(open_.pop())

    for module in MODULES:
        follow(module)


# Each takes a task up to some seconds of CPU; scanpy, mapQC, JAX and scib-metrics more than most mappings take in all
SLOW = {"torch", "scvi", "lightning", "sklearn", "umap", "numba", "pynndescent", "matplotlib", "igraph", "faiss", "multiqc", "scanpy", "mapqc", "jax", "scib_metrics"}  # fmt: skip
SLOWEST = {"scanpy": {"reference.selection"}, "mapqc": {"trust.mapqc"}, "jax": set(), "scib_metrics": set()}


def libraries_of(nodes) -> set[str]:
    """The libraries that some of a module's nodes import."""
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


def test_libraries_that_take_seconds_are_imported_where_they_are_used():
    """Families' own modules run beside torch; all others are imported by steps that may have no use for it."""
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
    at_once = {".".join(module): libraries_of(tree.body) & SLOW for module, tree in trees.items() if module[:1] != ("families",)}
    # These compile a function and extend a class, and are imported themselves where they are used
    allowed = {"transfer.lists": {"numba"}, "report.dots": {"matplotlib"}}
    assert {module: names for module, names in at_once.items() if names} == allowed
    late = {module.split(".")[-1] for module in allowed}
    users = [module for module, tree in trees.items() if any(getattr(node, "module", None) in late for node in tree.body)]
    assert not users
    for library, users in SLOWEST.items():
        found = {".".join(module) for module, tree in trees.items() if library in libraries_of(list(ast.walk(tree)))}
        assert found == users, library
