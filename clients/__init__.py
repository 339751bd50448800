"""The client edge: objectives answer plans inside a Flower ClientApp.

``TorchObjective`` is imported when it is first asked for, so a client without torch can use the
rest.
"""

from typing import TYPE_CHECKING, Any

from .app import client_app
from .numpy_objective import NumpyObjective

if TYPE_CHECKING:
    from .torch_objective import TorchObjective

__all__ = ["NumpyObjective", "TorchObjective", "client_app"]


def __getattr__(name: str) -> Any:
    if name == "TorchObjective":
        from .torch_objective import TorchObjective

        return TorchObjective
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
