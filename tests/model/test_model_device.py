"""Devices: what is said when their memory runs out."""

import pytest
import torch

from stillroom.errors import StillroomError
from stillroom.model.device import memory_told


def test_memory_that_runs_out_is_one_line_with_what_to_do():
    said = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15 GiB.\nMore."
    with (
        pytest.raises(StillroomError, match="^the GPU has no memory for 20.00 MiB more; lower micro_batch$"),
        memory_told("lower micro_batch"),
    ):
        raise torch.OutOfMemoryError(said)
    with (
        pytest.raises(StillroomError, match="^this machine has no memory for 4503599627370496 bytes more; lower it$"),
        memory_told("lower it"),
    ):
        torch.empty(2**50)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="size of tensor a") as caught, memory_told("lower it"):
        torch.zeros(2) + torch.zeros(3)
    assert not isinstance(caught.value, StillroomError)
