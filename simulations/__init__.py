"""The app: tasks, presets, engines, command line, reports."""

from .engines import InlineGrid, LossyGrid
from .settings import Settings, SettingsError, make_settings
from .tasks import ProblemTask, Task, TorchTask, make_task

__all__ = [
    "InlineGrid",
    "LossyGrid",
    "ProblemTask",
    "Settings",
    "SettingsError",
    "Task",
    "TorchTask",
    "make_settings",
    "make_task",
]
