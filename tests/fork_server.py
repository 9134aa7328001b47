"""Runs `python -m lrnn.fit` many times at the price of one start: the imports, which take seconds, happen once.

The process imports lrnn.fit and then reads commands from its standard input, one JSON object a line:

    {"arguments": [...], "environment": {...}}   fork a process that runs these arguments; answer its id
    {"poll": id}                                 answer the exit status of that process, or null while it runs

A forked process leads a process group of its own. `start_fit` in conftest.py is the other end of the pipe.
"""

import json
import os
import sys

from lrnn.fit import main


def serve():
    """Answer commands. Returns in every forked process, with the command that it has to run."""
    for line in iter(sys.stdin.readline, ""):
        command = json.loads(line)
        if "poll" in command:
            pid, status = os.waitpid(command["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            os.setsid()
            return command
        print(json.dumps(answer), flush=True)
    os._exit(0)


command = serve()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)  # the server's output carries its answers
os.environ.update(command["environment"])
sys.argv = ["lrnn.fit", *command["arguments"]]
main()
