"""Train runs one after another in one process: python -m lrnn.sweep.worker

A sweep on a CPU starts one worker for each core, so that its runs share the seconds that importing PyTorch takes. A
worker's standard input is a socket. Each run comes as a line of JSON, together with the open file that locks the run. A
worker's standard output has reports, also as lines of JSON:

    sweep -> worker     {"arguments": ["--config=conf/parity.yaml", ...], "log": "runs/parity/.../lr0.01_seed0.log"}
    worker -> sweep     {"step": 10, "steps": 500}        every ten steps
                        {"seconds": 51.2}                 the run is finished, the worker waits for the next one

What a run prints goes to its log. A run that fails or is interrupted ends its worker, with the log and the exit status
of `python -m lrnn.fit`. A worker also ends when its input is closed. If the sweep is killed, the input is closed too: a
worker then finishes its run, which it still locks, and ends.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

REPORT_EVERY = 10  # steps

Report = Callable[..., None]


def serve(train: Callable[[Sequence[str], Report], None]) -> None:
    """Call `train(arguments, report)` for each run that comes through the standard input, until the input is closed."""
    with socket.socket(fileno=os.dup(0)) as requests, os.fdopen(os.dup(1), "wb", buffering=0) as reports:

        def report(**values: Any) -> None:
            with suppress(BrokenPipeError):  # the sweep was killed
                reports.write(json.dumps(values).encode() + b"\n")

        while received := _receive(requests):
            run, lock = received
            _print_to(run["log"])
            start = time.monotonic()
            train(run["arguments"], report)
            os.close(lock)
            report(seconds=time.monotonic() - start)


def _receive(requests: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Return the next run and the descriptor of its lock, or None if the input is closed."""
    line = b""
    locks: list[int] = []
    while not line.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(requests, 2**16, 1)
        if not part:
            return None
        line += part
        locks += descriptors
    return json.loads(line), locks[0]


def _print_to(log: str) -> None:
    """Append all further output of this process, also that of libraries in C, to the log."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def main() -> None:
    if "LOCAL_RANK" in os.environ:  # Lightning started this process, to be a second rank of a run
        sys.exit("error: trainer.devices: must be 1 for the runs of a sweep on a CPU")
    import torch  # imported here, so that a test can serve without it
    from lightning.pytorch.callbacks import LambdaCallback

    from callbacks import TrainingDivergedError
    from lrnn.fit import configure_output, fit
    from lrnn.runtime.errors import ConfigError

    def train(arguments: Sequence[str], report: Report) -> None:
        def tell(trainer: Any, *_: Any) -> None:
            if trainer.global_step % REPORT_EVERY == 0:
                report(step=trainer.global_step, steps=trainer.max_steps)

        fit(arguments, [LambdaCallback(on_train_batch_end=tell)])
        torch.use_deterministic_algorithms(False)  # what trainer.deterministic sets, which is the next run's to choose

    configure_output()
    try:
        serve(train)
    except (ConfigError, TrainingDivergedError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("KeyboardInterrupt: stopped by the sweep")


if __name__ == "__main__":
    main()
