"""The client edge: objectives answer plans inside a Flower ClientApp.

What needs torch is imported when it is first asked for, so a client without torch can use the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .app import client_app
from .numpy_objective import NumpyObjective
from .onnx_objective import OnnxObjective

if TYPE_CHECKING:
    from .torch_export import export_onnx
    from .torch_objective import TorchObjective

__all__ = ["NumpyObjective", "OnnxObjective", "TorchObjective", "client_app", "export_onnx"]
_LATER = {"TorchObjective": ".torch_objective", "export_onnx": ".torch_export"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
