"""What the code runs on: the device, the precision of its arithmetic, and what makes it fast."""

import contextlib
import copy
import ctypes
import itertools
import math
import os
import time
from dataclasses import dataclass

import torch

from config import Config, UserError

# Has PyTorch ask the system for pages of 2 MB instead of 4 KB. It looks once, when the first tensor is made.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
FIXED_SHAPES = 16  # pads 16 % on lengths like opus_books', and each takes its time to record
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """The device that `wanted` names, or the best there is for "auto". Raises UserError where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, available in there.items() if available)
    if not there[wanted]:
        raise UserError(
            f"device is {wanted!r}, but PyTorch {torch.__version__} finds none here. Take --device auto, or install a "
            "build of PyTorch for it."
        )
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """The precision of matrix products, and why. Raises UserError where the device lacks the one that is wanted."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and device.type == "cuda" and not has_bf16:
        card = torch.cuda.get_device_name()
        raise UserError(f"precision is 'bf16', but {card} has no bf16. Take --precision fp16 for a new run.")
    if wanted != "auto":
        return wanted, "as set" + (", matrix products in TF32 where the card has it" if device.type == "cuda" else "")
    if has_bf16:
        return "bf16", "the card has it, and it needs no GradScaler, which makes the CPU wait at every update"
    if device.type == "cuda":
        return "fp16", "with GradScaler, since this card has no bf16"
    if device.type == "mps":
        return "fp32", "the safe choice on MPS"
    fp32, bf16 = (matrix_gflops(dtype) for dtype in (torch.float32, torch.bfloat16))
    name = "bf16" if bf16 > 1.5 * fp32 else "fp32"
    return name, f"matrix products reach {bf16:.0f} GFLOP/s in bf16 and {fp32:.0f} in fp32 here"


def matrix_gflops(dtype: torch.dtype, device="cpu", size: int = 512, seconds: float = 0.1) -> float:
    """The best speed of a product of two (size, size) matrices in `seconds` of trying, in 10^9 operations a second."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))  # constants would flatter a GPU's clock
    a @ b  # the first product of a dtype prepares its kernel
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait_for(a.device)
        start = time.perf_counter()
        a @ b
        wait_for(a.device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, the device's or the machine's: each kind has words of its own."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in words)


def wide_dtype(device: torch.device) -> torch.dtype:
    """What to add up many losses in: MPS has no double precision."""
    return torch.float32 if device.type == "mps" else torch.float64


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all it was given: to be called before a clock is read."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def prepare_machine(device: str, threads: int) -> torch.device:
    """Chooses the device and sets what makes it fast. threads: CPU threads, 0 for PyTorch's choice."""
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True  # where fp32 products remain, on cards that have it
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape of batch, up to a second each
    chosen = choose_device(device)
    if chosen.type == "cpu":
        _keep_freed_memory()
    return chosen


def _keep_freed_memory() -> None:
    # glibc returns a freed block of 32 MB or more to the system at once, and the next step's gradients and logits pay
    # for it with a page fault every 4 KB: together a tenth of a step of the base model (benchmarks/README.md).
    trim_threshold, mmap_max = -1, -4  # numbers of M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library, which may do better
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)


def compiled_states(model: torch.nn.Module):
    """model.states with compiled layers: one encoder and one decoder layer, when they come for the first time, for all
    layers and shapes of batch. They are those of a copy that shares all tensors: the model itself, which validation
    uses in other ways, stays as it is.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for layer in (*twin.encoder, *twin.decoder):
        layer.compile(dynamic=True)
    return twin.train().states


@dataclass
class Recording:
    """The kernels of a function of (source, target), forward and backward, for one shape of batch, as CUDA graphs: they
    read ids and the gradient of the states where these tensors lie, and write states and the weights' gradients.
    """

    source: torch.Tensor
    target: torch.Tensor
    states: torch.Tensor
    gradient: torch.Tensor  # of the states
    weights: list[torch.nn.Parameter]
    gradients: list[torch.Tensor]  # of the weights
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class Graphs:
    """A model's states in training, on CUDA: when a shape of batch comes for the first time, its kernels are recorded;
    from then on they are replayed, without Python and launches between them.

    Every shape keeps gradients of its own: 4 bytes a weight, however small the batch.
    """

    def __init__(self, states, model: torch.nn.Module):
        self.states, self.model, self.recorded = states, model, {}
        self.memory = torch.cuda.graph_pool_handle()  # shared: no two shapes are under way at once
        self.differentiable = torch.zeros((), requires_grad=True)  # Replay has no other input that is

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shapes = (source.shape, target.shape)
        if shapes not in self.recorded:
            # Weights in half precision, kept from one call to the next, would be recorded as if they never changed.
            half = torch.autocast(
                "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
            )
            # Recording draws dropout a few times; the run is to go on as if it had not.
            with half, torch.enable_grad(), torch.random.fork_rng([self.model.device]):
                self.recorded[shapes] = self.record(source.clone(), target.clone())
        return Replay.apply(self.differentiable, self.recorded[shapes], source, target)

    def record(self, source: torch.Tensor, target: torch.Tensor) -> Recording:
        weights = list(self.model.parameters())
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):  # libraries choose their kernels, and layers are compiled, before anything is recorded
                states = self.states(source, target)
                gradients = torch.autograd.grad(states, weights, torch.zeros_like(states), allow_unused=True)
        torch.cuda.synchronize()
        used = [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
        del states, gradients
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self.memory):
            states = self.states(source, target)
        gradient = torch.empty_like(states)
        with torch.cuda.graph(backward, pool=self.memory):
            gradients = [g.contiguous() for g in torch.autograd.grad(states, used, gradient)]
        return Recording(source, target, states.detach(), gradient, used, gradients, forward, backward)


class Replay(torch.autograd.Function):
    """A recording as a function that autograd knows. It gives the weights their gradients itself: by autograd's way,
    each of some 200 would make the card's streams wait for one another.
    """

    @staticmethod
    def forward(ctx, _, recording: Recording, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        ctx.recording = recording
        recording.source.copy_(source)
        recording.target.copy_(target)
        recording.forward.replay()
        return recording.states.detach()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        recording = ctx.recording
        recording.gradient.copy_(gradient)
        recording.backward.replay()
        earlier = []  # of other batches of the update, or of the projection where it shares a matrix
        for weight, new in zip(recording.weights, recording.gradients, strict=True):
            if weight.grad is None:
                weight.grad = new
            else:
                earlier.append((weight.grad, new))
        if earlier:
            torch._foreach_add_(*zip(*earlier, strict=True))
        return None, None, None, None


def training_states(config: Config, model: torch.nn.Module, device: torch.device):
    """model.states, in the form that is fastest by the settings. Validation has shapes of its own and goes without."""
    states = compiled_states(model) if config.compile else model.states
    return Graphs(states, model) if config.graphs and device.type == "cuda" else states
