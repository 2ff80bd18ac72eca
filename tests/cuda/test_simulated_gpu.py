"""The simulated GPU refuses what CUDA refuses."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from simulated_gpu import GPU

MIXED = {
    "sum of two devices": lambda on_gpu, on_cpu: on_gpu + on_cpu,
    "product of matrices": lambda on_gpu, on_cpu: on_gpu @ on_cpu,
    "concatenation": lambda on_gpu, on_cpu: torch.cat([on_cpu, on_gpu]),
    "in place": lambda on_gpu, on_cpu: on_cpu.add_(on_gpu),
    "rows by indices on the CPU": lambda on_gpu, on_cpu: on_gpu.index_select(0, torch.tensor([0])),
    "CPU rows by indices on the GPU": lambda on_gpu, on_cpu: on_cpu[torch.tensor([0]).to(GPU)],
    "layer on the CPU": lambda on_gpu, on_cpu: nn.Linear(3, 2)(on_gpu),
    "random numbers by a generator of the CPU": lambda on_gpu, on_cpu: on_gpu.normal_(generator=torch.Generator()),
    "new random numbers by one": lambda on_gpu, on_cpu: torch.randn(3, device="cuda", generator=torch.Generator()),
    "many tensors at once": lambda on_gpu, on_cpu: torch._foreach_add_([on_cpu], [on_gpu]),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(simulated, name):
    with pytest.raises(RuntimeError, match="expected"):
        MIXED[name](torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


def test_what_cuda_allows_is_allowed(simulated):
    on_gpu = torch.arange(9.0, device="cuda").view(3, 3)
    for result in (on_gpu * torch.tensor(2.0), on_gpu[torch.tensor([0, 2])], on_gpu.double(), on_gpu.T.contiguous()):
        assert result.device == GPU and result.is_cuda
    on_gpu[torch.tensor([1])] = 5.0
    back = torch.empty(3, 3).copy_(on_gpu)
    assert back.device.type == "cpu" and back[1].tolist() == [5.0] * 3
    assert torch.ones(2).to(on_gpu).device == GPU and torch.ones(2).cuda().to("cpu").device.type == "cpu"
    assert torch.zeros_like(on_gpu).device == GPU and torch.zeros_like(on_gpu, device="cpu").device.type == "cpu"


def test_values_leave_the_gpu_by_a_copy_alone(simulated):
    on_gpu = torch.ones(3, device="cuda")
    for convert in (lambda: on_gpu.numpy(), lambda: np.asarray(on_gpu), lambda: on_gpu.pin_memory()):
        with pytest.raises(TypeError):
            convert()
    assert on_gpu.cpu().numpy().tolist() == [1.0] * 3


def test_a_copy_that_does_not_block_has_wrong_values_until_it_is_waited_for(simulated):
    copy = torch.ones(3, device="cuda").to("cpu", non_blocking=True)
    assert copy.tolist() != [1.0] * 3
    torch.cuda.synchronize()
    assert copy.tolist() == [1.0] * 3


def test_gradients_and_networks_are_on_the_gpu(simulated):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to("cuda")
    network(torch.ones(2, 3, 5, 5, device="cuda")).sum().backward()
    assert all(weight.device == GPU and weight.grad.device == GPU for weight in network.parameters())
    assert all(buffer.device == GPU for buffer in network.buffers())


def test_autocast_of_the_cpu_is_refused(simulated):
    with pytest.raises(AssertionError):
        torch.autocast("cpu", dtype=torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert nn.Linear(3, 2).to("cuda")(torch.ones(1, 3, device="cuda")).dtype == torch.bfloat16


def test_threads_have_the_gpu_too(simulated):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2).to("cuda").device))
    thread.start()
    thread.join()
    assert found == [GPU]


def test_full_memory_is_an_error_of_pytorch(simulated):
    simulated.room = 1
    on_gpu = torch.ones(2, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        on_gpu + on_gpu
