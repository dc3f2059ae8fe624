"""torch's global settings, left as a caller had them."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_settings() -> Iterator[None]:
    """Restore the number of threads, the precision of products, cuDNN's switches and the current GPU."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    switches = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = switches
        if gpu is not None:
            torch.cuda.set_device(gpu)
