"""Break the code on purpose: each mutant of the lists here must fail the test it names.

A copy of the tree is mutated, never the checkout. A mutant is killed when its test fails there; a
test that cannot run (the mutant breaks an import or a fixture, or hangs) has not killed it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
LEAVE = (".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
LIMIT = 600  # seconds for one mutant's test


@dataclass(frozen=True)
class Mutant:
    """In ``file``, ``old`` becomes ``new``; ``tests`` are the pytest node ids that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """Return the mutated source; ValueError where the mutant no longer fits."""
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its text is {count} times in {self.file}, not once")
        return source.replace(self.old, self.new)


def load(folder: Path = ROOT / "tests/mutants") -> list[Mutant]:
    """Read the lists of mutants; ``test`` is one node id or a list."""
    lists = [tomllib.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.toml"))]
    entries = [entry for one in lists for entry in one["mutant"]]
    for entry in entries:
        test = entry.pop("test")
        entry["tests"] = (test,) if isinstance(test, str) else tuple(test)
    return [Mutant(**entry) for entry in entries]


def pytest_says(tree: Path, tests: tuple[str, ...]) -> str:
    """Run tests in a tree and say "passed", "failed" or what else went wrong."""
    report = tree / "report.xml"
    report.unlink(missing_ok=True)
    options = ("-x", "-q", "-p", "no:cacheprovider", f"--junitxml={report}")
    # no bytecode: a mutant may have the size and the second of the file it replaces
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"took more than {LIMIT} seconds"
    if done.returncode == 0:
        return "passed"
    results = {node.tag for node in ElementTree.parse(report).iter()} if report.exists() else set()
    if done.returncode == 1 and "failure" in results and "error" not in results:
        return "failed"
    return f"could not run (pytest's exit code is {done.returncode}):\n{done.stdout[-2000:]}"


def attempt(mutant: Mutant, tree: Path) -> str:
    """Mutate the tree, run the mutant's tests, put the file back."""
    file = tree / mutant.file
    source = file.read_text("utf-8")
    try:
        file.write_text(mutant.apply(source), "utf-8")
        return pytest_says(tree, mutant.tests)
    except ValueError as stale:
        return str(stale)
    finally:
        file.write_text(source, "utf-8")


def main() -> int:
    """Try all mutants, or those that ``--only`` names; 0 when every one is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", metavar="NAME", default="*", help="a name, or a pattern such as 'bits: *'"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    asked = parser.parse_args()
    mutants = [mutant for mutant in load() if fnmatchcase(mutant.name, asked.only)]
    if not mutants:
        parser.error(f"there is no mutant {asked.only!r}")

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for job in range(asked.jobs):
            tree = Path(folder, str(job))
            trees.put(shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEAVE)))

        named = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
        print(f"{len(mutants)} mutants; first their tests on the code as it is", flush=True)
        if (answer := pytest_says(tree, named)) != "passed":
            print(f"they do not pass: {answer}")
            return 1

        def work(mutant: Mutant) -> str:
            own = trees.get()
            try:
                return attempt(mutant, own)
            finally:
                trees.put(own)

        survivors = []
        for mutant, answer in zip(mutants, pool.map(work, mutants), strict=True):
            killed = answer == "failed"
            print(f"  {'killed  ' if killed else 'SURVIVED'}  {mutant.name}", flush=True)
            if not killed:
                print(f"    {', '.join(mutant.tests)}: {answer}", flush=True)
                survivors.append(mutant.name)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
