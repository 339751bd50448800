"""A user's task: a small network with BatchNorm and Dropout, whose clients share the module."""

import numpy as np

from simulations import TorchTask


def make_task(settings):
    """Make the task that ``task = "tests.tools.normed_task:make_task"`` names."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = nn.Sequential(
            *(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        )

    def some(count):
        inputs = rng.standard_normal((count, 6)).astype(np.float32)
        return inputs, (inputs @ np.ones(6) > 0).astype(np.int64)

    shards = [some(12 + client) for client in range(settings.clients)]
    return TorchTask(model, cross_entropy, shards, some(20))
