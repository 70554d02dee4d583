"""Who imports whom in the four packages, counted from the source.

The rule: a module is a `.py` file of `schemas`, `pipeline`, `trainer` or `flows`. An edge goes from a module to each
other module of the four that an `import` in it names, wherever it stands: at the top, in a function, or under
`TYPE_CHECKING`; `from package import name` names the module `name` where there is one, else the package's
`__init__.py`. Each pair counts once. Packages are folders: an edge between two folders is there where a module of one
imports a module of the other (a folder within another is a package of its own). A circle is a set of more than one
module (or package) from each of which imports lead to every other (a strongly connected component). An import is
upward where the package of the imported module is in a later line of `LAYERS`.

    python -m tests.support.import_graph             # of this tree
    python -m tests.support.import_graph OTHER/TREE  # of another one, such as a work tree of an older commit
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("schemas", "pipeline", "trainer", "flows")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("schemas",),
    ("pipeline", "pipeline.quantities", "pipeline.difficulty"),
    ("pipeline.grade", "pipeline.perturb"),
    ("pipeline.images",),
    ("pipeline.store.files",),
    ("pipeline.store",),
    (
        "pipeline.store.lake",
        "pipeline.diagnosis",
        "pipeline.ingest",
        "pipeline.teacher.prompts",
        "pipeline.teacher.wire",
    ),
    ("pipeline.teacher", "pipeline.diagnosis"),
    ("pipeline.teacher.wire.batch",),
    ("pipeline.checks",),
    ("pipeline.session",),
    ("pipeline.stages",),
    ("pipeline.export",),
    ("trainer.method",),
    ("trainer",),
    ("trainer.evaluation", "trainer.hosts"),
    ("flows",),
    ("flows.pages",),
    ("flows.runs",),
    ("flows.demo",),
    ("flows.cli",),
)
"""The packages from the lowest to the highest; those of a line may import each other one way."""

Graph = dict[str, set[str]]
"""By name, the names that it imports."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Files of the four packages by the name of their module, without `diva_grpo.`."""
    found = {}
    for top in TOP:
        for path in sorted((root / top).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Names that the imports of a file name, with what they take from a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_graph(root: Path = ROOT) -> Graph:
    """Which module imports which."""
    known = modules(root)
    graph: Graph = {}
    for module, path in known.items():
        graph[module] = set()
        for imported_name in imported(path):
            name = imported_name.removeprefix("diva_grpo.")
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def package_of(module: str, known: Mapping[str, Path]) -> str:
    """The folder of a module."""
    return module if known[module].name == "__init__.py" else module.rpartition(".")[0] or module


def package_graph(root: Path = ROOT) -> Graph:
    """Which folder imports which."""
    known = modules(root)
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for module, targets in module_graph(root).items():
        package = package_of(module, known)
        graph[package] |= {package_of(target, known) for target in targets} - {package}
    return dict(graph)


def circles(graph: Graph) -> list[list[str]]:
    """The circles of a graph, each sorted.

    >>> circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    [['b', 'c']]
    """
    reached = {name: _reached(graph, name) for name in graph}
    together = {
        name: tuple(sorted(other for other in reach if name in reached.get(other, ())))
        for name, reach in reached.items()
    }
    return [list(circle) for circle in sorted({circle for circle in together.values() if len(circle) > 1})]


def _reached(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def upward(root: Path = ROOT) -> list[str]:
    """Imports from a lower to a higher layer, as `module -> module`.

    Raises:
        KeyError: a package has no layer.
    """
    known = modules(root)
    level = {package: number for number, layer in enumerate(LAYERS) for package in layer}
    return [
        f"{module} -> {target}"
        for module, targets in module_graph(root).items()
        for target in sorted(targets)
        if level[package_of(target, known)] > level[package_of(module, known)]
    ]


def floors(graph: Graph) -> int:
    """Packages that stand on each other at most; 0 where circles leave no order."""
    try:
        order = [*TopologicalSorter(graph).static_order()]
    except CycleError:
        return 0
    height: dict[str, int] = {}
    for name in order:
        height[name] = 1 + max((height[below] for below in graph.get(name, ())), default=0)
    return max(height.values())


def main(root: Path) -> None:
    """Print the counts."""
    by_module, by_package = module_graph(root), package_graph(root)
    print(f"{len(by_module)} modules, {sum(map(len, by_module.values()))} edges between them")
    print(f"{len(by_package)} packages, {sum(map(len, by_package.values()))} edges between them")
    print(f"{floors(by_package) or 'no'} packages on top of each other at most")
    for what, found in (("modules", circles(by_module)), ("packages", circles(by_package))):
        print(f"{len(found)} circles of {what}", *(f"  {len(c)}: {', '.join(c)}" for c in found), sep="\n")
    try:
        arrows = upward(root)
    except KeyError as error:
        print(f"imports upward are not counted: LAYERS has no {error}")
    else:
        print(f"{len(arrows)} imports upward", *(f"  {arrow}" for arrow in arrows), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
