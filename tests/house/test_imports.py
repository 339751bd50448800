"""Imports point one way, and nothing heavy is imported before it is used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("fedbias", "strategies", "clients", "simulations")
HEAVY = {"torch", "ray", "matplotlib", "sklearn", "torchvision", "rich", "onnxruntime"}
MAY_IMPORT = {
    "fedbias": {"numpy", "fedbias"},
    "strategies": {"numpy", "flwr", "fedbias", "safetensors"},
    "clients": {"numpy", "flwr", "fedbias"},
    "simulations": {
        *("numpy", "flwr", "fedbias", "strategies", "clients"),
        *("pydantic", "safetensors", "threadpoolctl", *HEAVY),
    },
}


class Import(NamedTuple):
    line: int
    name: str  # the top-level module; "." inside the folder, ".." beyond it
    when: str  # "at once", "in a function" or "for types"


def imports(tree: ast.AST, depth: int, when: str = "at once") -> Iterator[Import]:
    """Every import below ``tree``, in a file that lies ``depth`` folders deep."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(node.lineno, alias.name.split(".")[0], when)
            case ast.ImportFrom(level=0, module=str(module)):
                yield Import(node.lineno, module.split(".")[0], when)
            case ast.ImportFrom(level=level):
                yield Import(node.lineno, "." if level <= depth else "..", when)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Import(node.lineno, module.split(".")[0], when)
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from imports(node, depth, "in a function")
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from imports(node, depth, "for types")
            case _:
                yield from imports(node, depth, when)


def violations(path: str, source: str) -> list[str]:
    """What the file imports against the rules, one sentence each."""
    *folders, name = PurePosixPath(path).parts
    folder, found = folders[0], []
    torch_file = folder == "clients" and name.startswith("torch_")
    onnx_file = folder == "clients" and name.startswith("onnx_")
    extras_file = folder == "fedbias" and name.startswith("extras_")
    allowed = MAY_IMPORT[folder] | ({"torch"} if torch_file else set())
    allowed |= {"onnxruntime"} if onnx_file else set()
    for line, module, when in imports(ast.parse(source), len(folders)):
        if module == "." or module in sys.stdlib_module_names:
            continue
        an_extra = extras_file and module not in {"numpy", *FOLDERS}
        heavy = an_extra or (module in HEAVY and not (torch_file and module == "torch"))
        if heavy and when == "at once":
            found.append(f"{path}:{line} imports {module} before it is used")
        elif module == ".." or (module == folder and folder != "fedbias"):
            found.append(f"{path}:{line} must import relatively inside {folder}")
        elif module not in allowed and not an_extra:
            found.append(f"{path}:{line} imports {module}, which {folder} may not")
    return found


def test_every_file_keeps_the_rules():
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert {file.relative_to(ROOT).parts[0] for file in files} == set(FOLDERS)
    found = [
        violation
        for file in files
        for violation in violations(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))
    ]
    assert found == []


KEPT = [
    ("fedbias/a.py", "import math, numpy.typing\nfrom fedbias.packets import Packet"),
    ("fedbias/compressors/a.py", "from ..packets import Packet\nfrom . import dense"),
    ("fedbias/extras_numba.py", "def f():\n    import numba\n    import_module('constriction')"),
    ("strategies/a.py", "from flwr.app import Message\nfrom fedbias import run\nfrom .b import c"),
    ("clients/torch_mlp.py", "import torch"),
    ("clients/onnx_mlp.py", "def f():\n    import onnxruntime"),
    ("simulations/data/a.py", "from strategies import x\nfrom ..tasks import y"),
    ("simulations/a.py", "def f():\n    from sklearn.datasets import load_digits"),
    ("simulations/a.py", "if TYPE_CHECKING:\n    import torch"),
]
BROKEN = [
    ("fedbias/a.py", "import flwr", "may not"),
    ("fedbias/a.py", "import pydantic", "may not"),
    ("fedbias/a.py", "def f():\n    import numba", "may not"),
    ("fedbias/a.py", "from strategies import x", "may not"),
    ("fedbias/a.py", "import_module('torch')", "before it is used"),
    ("fedbias/a.py", "importlib.import_module('flwr.app')", "may not"),
    ("fedbias/a.py", "from ..clients import x", "relatively"),
    ("fedbias/extras_numba.py", "import numba", "before it is used"),
    ("fedbias/extras_numba.py", "def f():\n    import clients", "may not"),
    ("strategies/a.py", "def f():\n    import clients.torch_mlp", "may not"),
    ("strategies/a.py", "from strategies.b import c", "relatively"),
    ("strategies/a.py", "from ..fedbias import run", "relatively"),
    ("strategies/a.py", "def f():\n    import torch", "may not"),
    ("clients/a.py", "if TYPE_CHECKING:\n    import torch", "may not"),
    ("clients/a.py", "import strategies", "may not"),
    ("clients/a.py", "import simulations", "may not"),
    ("clients/torch_mlp.py", "import torchvision", "before it is used"),
    ("clients/onnx_mlp.py", "import onnxruntime", "before it is used"),
    ("clients/onnx_mlp.py", "def f():\n    import torch", "may not"),
    ("clients/a.py", "def f():\n    import onnxruntime", "may not"),
    ("simulations/a.py", "from simulations.b import c", "relatively"),
    (
        "simulations/a.py",
        "try:\n    import ray\nexcept ImportError:\n    pass",
        "before it is used",
    ),
    ("simulations/a.py", "class A:\n    import matplotlib.pyplot as plt", "before it is used"),
    ("simulations/a.py", "import pandas", "may not"),
]


@pytest.mark.parametrize(("path", "source"), KEPT)
def test_the_checker_lets_pass_what_is_allowed(path, source):
    assert violations(path, source) == []


@pytest.mark.parametrize(("path", "source", "says"), BROKEN)
def test_the_checker_catches(path, source, says):
    (violation,) = violations(path, source)
    assert says in violation


def test_the_library_is_imported_without_anything_heavy():
    program = (
        "import sys, fedbias, strategies, clients\n"
        f"print(*sorted({HEAVY - {'rich'}} & sys.modules.keys()))"  # flwr itself imports rich
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
