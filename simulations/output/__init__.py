"""What the app shows and keeps: run folders, progress, tables, reports."""

from .environment import describe_environment
from .notices import Notices
from .printing import print_lines, print_table
from .progress import Progress
from .report import write_picture, write_report
from .results import save_finding, save_result
from .rows import comparison_table
from .runs import Run, RunFolder, absolute, read_run
from .seeds import mean_run

__all__ = [
    "Notices",
    "Progress",
    "Run",
    "RunFolder",
    "absolute",
    "comparison_table",
    "describe_environment",
    "mean_run",
    "print_lines",
    "print_table",
    "read_run",
    "save_finding",
    "save_result",
    "write_picture",
    "write_report",
]
