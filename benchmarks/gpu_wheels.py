"""Which packages ``gpu.py`` needs on a machine that has torch but no network, and how to fetch them.

    python benchmarks/gpu_wheels.py
    python benchmarks/gpu_wheels.py --there freeze.txt --python-version 3.12 --platform manylinux_2_28_x86_64

The imports of ``gpu.py`` and ``pytest -m gpu`` are followed through this package, those inside functions
included; what they need is read from the distributions that are installed here, at their versions. Left out
is what is there: torch, transformers, peft, numba, pytest and all that these need, or what ``pip freeze``
printed on that machine. Printed: the packages, those that are too old there, and the ``pip download`` that
fetches the wheels.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
STARTS = ("benchmarks/gpu_measures.py", "benchmarks/gpu.py", "tests/gpu/test_gpu.py", "tests/conftest.py")
PLACES = (ROOT / "src", ROOT / "benchmarks")
THERE = ("torch", "transformers", "peft", "numba", "pytest", "pytest-timeout")


def imported(path: Path) -> Iterator[str]:
    """Return the dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def file_of(module: str) -> Path | None:
    """Return the file of one of our own modules, or None."""
    for place in PLACES:
        path = place.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def foreign_imports(starts: Iterable[Path]) -> set[str]:
    """Follow imports through our own files; return the first names of the others that are not standard."""
    waiting, seen, foreign = list(starts), set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path):
            parts = name.split(".")
            if file_of(parts[0]) is None:
                foreign.add(parts[0])
                continue
            above = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
            waiting += [file for each in above if (file := file_of(each)) is not None]
    return foreign - sys.stdlib_module_names - {"tests", "__future__"}


def found(name: str) -> Distribution | None:
    """Return an installed distribution, or None."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def with_needs(names: Iterable[str], environment: dict[str, str]) -> dict[str, str]:
    """Return {package: version} of packages and all that they need in an environment, as installed here."""
    waiting, versions = [(name, frozenset[str]()) for name in names], dict[str, str]()
    seen = set[tuple[str, frozenset[str]]]()
    while waiting:
        name, extras = waiting.pop()
        name = canonicalize_name(name)
        here = found(name)
        if here is None or (name, extras) in seen:
            continue
        seen.add((name, extras))
        versions[name] = here.version
        for line in here.requires or ():
            needed = Requirement(line)
            kinds = [{**environment, "extra": extra} for extra in (extras or {""})]
            if needed.marker is None or any(needed.marker.evaluate(kind) for kind in kinds):
                waiting.append((needed.name, frozenset(needed.extras)))
    return versions


def our_requirements() -> dict[str, Requirement]:
    """Return what the package demands, by name."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return {canonicalize_name(row.name): row for row in map(Requirement, listed)}


def frozen(path: Path) -> dict[str, str]:
    """Read ``name==version`` lines; a name alone has no version."""
    rows = (line.strip().partition("==") for line in path.read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(name): version for name, _, version in rows if name and name[0] not in "#-"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--there", type=Path, help="What pip freeze printed on that machine.")
    parser.add_argument("--python-version", default="3.12")
    parser.add_argument("--platform", action="append", help="As pip download takes it; may be repeated.")
    parser.add_argument("--dest", default="wheels")
    options = parser.parse_args()
    environment = {
        "python_version": options.python_version,
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    homes = packages_distributions()
    names = foreign_imports(ROOT / start for start in STARTS)
    absent = sorted(name for name in names if name not in homes)
    demands = our_requirements()
    direct = {home for name in names if name in homes for home in homes[name]}
    needed = with_needs(direct, environment)
    there = frozen(options.there) if options.there else with_needs(THERE, environment)
    old = {
        name: there[name]
        for name, row in demands.items()
        if there.get(name) and name in needed and not row.specifier.contains(there[name], prereleases=True)
    }
    carried = {name: row for name, row in needed.items() if name not in there or name in old}
    for name, version in sorted(carried.items()):
        print(f"{name}=={version.partition('+')[0]}" + (f"  # there: {old[name]}" if name in old else ""))
    if absent:
        print("# imported somewhere, not installed here, so optional:", *absent)
    platforms = options.platform or ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    print(
        f"\npip download --no-deps --only-binary=:all: --python-version {options.python_version}",
        "--implementation cp",
        *(f"--platform {platform}" for platform in platforms),
        f"--dest {options.dest}",
        *(f"{name}=={version.partition('+')[0]}" for name, version in sorted(carried.items())),
    )


if __name__ == "__main__":
    main()
