"""torchvision beside a torch that it was not built for, such as a CPU build: for tests alone.

``python -m tests.tools.torchvision_schemas VERB …`` is ``python -m simulations VERB …`` with it.
"""

import contextlib
import sys
from types import ModuleType


def import_torchvision() -> ModuleType:
    """Import torchvision; declare the two operators that its import asks for, where it must be."""
    with contextlib.suppress(RuntimeError):
        import torchvision

        return torchvision
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torchvision.schemas = library  # they vanish with the library
    return torchvision


if __name__ == "__main__":
    from simulations.__main__ import main

    import_torchvision()
    sys.exit(main())
