"""What the code runs on: the device, the precision of its arithmetic, and what makes it fast."""

import contextlib
import copy
import ctypes
import itertools
import math
import os
import time

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
    return name, f"matrix products reach {bf16:,.1f} GFLOP/s in bf16 and {fp32:,.1f} in fp32 here"


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


def cannot_compile(error: BaseException) -> bool:
    """Whether an error is of PyTorch's compiler, which wants others that may not be there."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


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


class States(torch.nn.Module):
    """A function of (source, target) as a module with the model's weights, which is what PyTorch records."""

    def __init__(self, states, model: torch.nn.Module):
        super().__init__()
        self.states, self.model = states, model

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.states(source, target)


class Graphs:
    """A model's states in training, on CUDA: when a shape of batch comes for the first time, its kernels, forward and
    backward, are recorded as CUDA graphs; from then on they are replayed, without Python and launches between them.

    Every shape keeps gradients of its own: 4 bytes a weight, however small the batch.
    """

    def __init__(self, states, model: torch.nn.Module):
        self.states, self.model, self.recorded = states, model, {}
        self.memory = torch.cuda.graph_pool_handle()  # shared: no two shapes are under way at once

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shapes = (source.shape, target.shape)
        if shapes not in self.recorded:
            self.recorded[shapes] = self.record(source, target)
        return self.recorded[shapes](source, target)

    def record(self, source: torch.Tensor, target: torch.Tensor):
        # Weights in half precision, kept from one call to the next, would be recorded as if they never changed.
        half = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        # What was recorded belongs to the stream of its recording, and autograd waits for it at every update, as it
        # should; PyTorch would warn of that.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        states = States(self.states, self.model)
        # Recording draws dropout a few times; the run is to go on as if it had not.
        with half, torch.random.fork_rng([self.model.device]):
            torch.cuda.make_graphed_callables(
                states,
                (source.clone(), target.clone()),  # each replay's ids are written there
                allow_unused_input=True,  # the projection
                pool=self.memory,
            )
        return states.__dict__.pop("forward")  # alone: with its module it is a cycle, which keeps the card's memory


def training_states(config: Config, model: torch.nn.Module, device: torch.device):
    """model.states, in the form that is fastest by the settings. Validation has shapes of its own and goes without."""
    states = compiled_states(model) if config.compile else model.states
    return Graphs(states, model) if config.graphs and device.type == "cuda" else states
