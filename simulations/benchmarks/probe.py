"""``python probe.py LOG COMMAND …``: run a command and add a line of JSON on what it took."""

import json
import os
import sys
import time


def main(log: str, *command: str) -> int:
    """Write seconds, processor seconds and the peak resident memory; return the exit code."""
    began = time.monotonic()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    line = {
        "seconds": time.monotonic() - began,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * unit,
    }
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
