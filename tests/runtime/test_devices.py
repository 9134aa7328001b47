import os

import pytest

from lrnn.runtime.devices import PROCESSES_PER_CORE, check_devices
from lrnn.runtime.errors import ConfigError

CORES = os.cpu_count() or 1


@pytest.mark.parametrize("devices", ["auto", 1, "2", PROCESSES_PER_CORE * CORES])
def test_a_number_of_processes_that_the_cores_can_carry(devices):
    check_devices("cpu", devices)


@pytest.mark.parametrize(
    "devices",
    [
        10_000_000,
        "10000000",
        PROCESSES_PER_CORE * CORES + 1,
        0,
        -1,
        "-1",
        1e-300,
        "1e-300",
        "all",
        [0, 1],
        [],
        True,
        None,
    ],
)
def test_others_are_refused_by_name(devices):
    with pytest.raises(ConfigError, match=r"^trainer\.devices: must be .{1,100}$"):
        check_devices("cpu", devices)


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for devices in (1, 2, -1, "-1", [0, 1], "0,1", "auto"):
        check_devices("gpu", devices)
    for devices in (3, [0, 1, 2], 0, -2):
        with pytest.raises(ConfigError, match=r"^trainer\.devices: "):
            check_devices("auto", devices)
