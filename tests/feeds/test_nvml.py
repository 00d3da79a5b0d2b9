"""NVML readings; the figures are checked where there is a GPU."""

import pytest

from gateway.feeds.nvml import Nvml

pytest.importorskip("pynvml")


def readings(gpus: tuple[str, ...] = ()) -> dict[str, float] | None:
    """Joules by GPU; None on a machine without a driver."""
    try:
        return Nvml().joules(gpus)
    except OSError as error:
        assert str(error).startswith("NVML: ")
        return None


def test_a_machine_without_a_driver_is_an_os_error_every_time():
    if readings() is not None:
        pytest.skip("this machine has a GPU")
    meter = Nvml()
    for _ in range(2):
        with pytest.raises(OSError, match="NVML"):
            meter.joules(())


def test_gpus_are_selected_by_index_or_uuid_and_counters_never_fall():
    everything = readings()
    if everything is None:
        pytest.skip("this machine has no GPU")
    uuid = next(iter(everything))
    by_index, by_uuid = readings(("0",)), readings((uuid,))
    assert by_index is not None and by_uuid is not None
    assert set(by_index) == set(by_uuid) == {uuid}
    assert everything[uuid] <= by_index[uuid] <= by_uuid[uuid]
    assert readings(("no such GPU",)) == {}
