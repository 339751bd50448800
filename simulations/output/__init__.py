"""What the app shows and keeps: run folders, progress, tables, reports."""

from .environment import describe_environment
from .progress import Progress
from .report import write_picture, write_report
from .runs import Run, RunFolder, absolute, read_run
from .tables import comparison_table, print_table

__all__ = [
    "Progress",
    "Run",
    "RunFolder",
    "absolute",
    "comparison_table",
    "describe_environment",
    "print_table",
    "read_run",
    "write_picture",
    "write_report",
]
