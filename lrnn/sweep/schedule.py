"""Train runs side by side: several on a device, and no run twice."""

import signal
from collections import deque
from collections.abc import Iterable, Sequence

from lrnn.sweep.attempt import Attempt, Slot, begin
from lrnn.sweep.device import Device
from lrnn.sweep.grid import Run


class Schedule:
    """Trains runs on devices: call `tick` until the schedule is no longer `busy`, then `close`.

    Several sweeps over one folder share its runs. A run that another sweep trains is waited for, and trained here if it
    does not finish there.
    """

    def __init__(self, runs: Iterable[Run], devices: Sequence[Device], runs_per_device: int = 1):
        self.waiting = deque(runs)
        self.slots = [Slot(device) for _ in range(runs_per_device) for device in devices]
        self.free = deque(self.slots)
        self.running: list[Attempt] = []
        self.done: list[Run] = []
        self.failed: dict[Run, str] = {}

    @property
    def busy(self) -> bool:
        return bool(self.running or (self.waiting and self.free))

    def tick(self) -> list[str]:
        """Take in the runs that have ended and start others in their place. Return lines for the user."""
        said = []
        for ended in [attempt for attempt in self.running if attempt.ended()]:
            said += self._end(ended)
        for _ in range(len(self.waiting)):
            if not self.free:
                break
            run = self.waiting.popleft()
            if run.result() is not None:
                self.done.append(run)
            elif attempt := begin(run, self.free[0]):
                self.running.append(attempt)
                self.free.popleft()
            else:
                self.waiting.append(run)
        return said

    def _end(self, attempt: Attempt) -> list[str]:
        attempt.close()
        self.running.remove(attempt)
        run, device = attempt.run, attempt.slot.device
        said = []
        if (result := run.result()) is not None:
            self.done.append(run)
            device.strikes = 0
            said.append(f"{run.name}: scaled accuracy {result['scaled_accuracy']:.4f}, {attempt.seconds:.0f} s")
        else:
            reason, lost = attempt.complaint(), not device.answers()
            self.failed[run] = f"GPU {device.gpu} does not answer any more; {reason}" if lost else reason
            device.strikes = device.strikes + 1 if lost else 0
            said.append(f"{run.name}: failed, {self.failed[run]}")
            if lost and device.retired:
                said.append(f"GPU {device.gpu} is not used any more")
        if device.retired:
            self.free = deque(slot for slot in self.free if slot.device is not device)
        else:
            self.free.append(attempt.slot)
        return said

    def stop(self) -> None:
        """Let the runs leave a checkpoint; a run in its last evaluation finishes it. A second Ctrl-C kills them."""
        for attempt in self.running:
            attempt.process.send_signal(signal.SIGINT)
        for slot in self.slots:
            if slot.worker:
                slot.worker.dismiss()
        try:
            for attempt in self.running:
                attempt.process.wait()
        except KeyboardInterrupt:
            for attempt in self.running:
                attempt.process.kill()
                attempt.process.wait()
            raise
        finally:
            for attempt in self.running:
                attempt.close()

    def close(self) -> None:
        """End the workers."""
        for slot in self.slots:
            if slot.worker:
                slot.worker.close()
