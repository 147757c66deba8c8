"""The cause of an error by its class and fields, and by the texts of libraries that give nothing else."""

import errno

import pytest
import torch
from torch import distributed

from harness.train import failure
from harness.train.launcher import RankError
from harness.train.signals import PreemptedError


def accelerator_error(text: str, code: int) -> Exception:
    error = torch.AcceleratorError(text)
    error.error_code = code  # set by torch's C++ in a real one
    return error


class SerializeError(RuntimeError):
    """An error of a library's own class."""


class ConnectTimeout(Exception):  # noqa: N818 - httpx's and requests' name
    """A network's."""


OUT_OF_DEVICE_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB"),
    accelerator_error("CUDA error: out of memory", 2),
    accelerator_error("anything that a later version says", 2),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`"),
    RuntimeError("CUDA error: insufficient resources when calling `x`: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("CURAND_STATUS_ALLOCATION_FAILED"),
    distributed.DistBackendError(
        "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error, NCCL version 2.28.9\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1090'),
    RuntimeError(
        "NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "
        '"../c10/cuda/CUDACachingAllocator.cpp":963'
    ),
]
OUT_OF_HOST_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3.00 TiB for an array"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("std::bad_alloc"),
    RuntimeError("unable to mmap 512 bytes from file <x>: Cannot allocate memory (12)"),
]
OF_THE_MACHINE = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    accelerator_error("CUDA error: uncorrectable ECC error encountered", 214),
    accelerator_error("CUDA error: an illegal memory access was encountered", 700),
    distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp"),
    distributed.DistNetworkError("Connection reset by peer"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    OSError(errno.ENOSPC, "No space left on device", "x"),
    OSError(errno.EIO, "Input/output error"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ConnectTimeout("the connection timed out"),
    TimeoutError("the read operation timed out"),
    SerializeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
    RuntimeError("DataLoader timed out after 600 seconds"),
    RankError("process 1 of 2 has ended with exit code -9", "machine"),
]
OF_THE_WORK = [
    ValueError("target=[nosuch]: it matches no module"),
    ValueError("train.micro_batch_size=512 is known to run out of memory"),
    TypeError("unsupported operand"),
    OSError("tiny is not a local folder and is not a valid model identifier"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "CUDA out of memory.jsonl"),
    PermissionError(errno.EACCES, "Permission denied", "x"),
    RuntimeError("CUDA error: device-side assert triggered"),
    accelerator_error("CUDA error: device-side assert triggered", 710),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 101376"),
    ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
    OSError("/lib/libgomp.so.1: cannot allocate memory in static TLS block"),
    RuntimeError("Cannot re-initialize CUDA in forked subprocess"),
    PreemptedError("told to end"),
    RankError("process 1 of 2 has ended with exit code 7"),
    KeyboardInterrupt(),
    SystemExit(3),
]


@pytest.mark.parametrize(
    ("expected", "errors", "number"),
    [
        ("device_memory", OUT_OF_DEVICE_MEMORY, 19),
        ("host_memory", OUT_OF_HOST_MEMORY, 7),
        ("machine", OF_THE_MACHINE, 17),
        ("work", OF_THE_WORK, 17),
    ],
)
def test_each_error_has_its_cause(expected, errors, number):
    assert len(errors) == number
    assert {repr(error): failure.cause(error) for error in errors} == {repr(error): expected for error in errors}


def raised_from(first: Exception, second: Exception, explicit: bool) -> Exception:
    try:
        try:
            raise first
        except Exception as error:
            if explicit:
                raise second from error
            raise second  # noqa: B904 - the case
    except Exception as last:
        return last


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory")


def sticky() -> Exception:
    return accelerator_error("CUDA error: an illegal memory access was encountered", 700)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (out_of_memory, sticky, "device_memory"),
        (sticky, lambda: RuntimeError("the step failed"), "machine"),
        (out_of_memory, lambda: PreemptedError("told to end"), "work"),
        (sticky, lambda: ValueError("give another path"), "work"),
    ],
)
def test_memory_is_the_cause_through_what_followed_from_it(first, second, expected, explicit):
    assert failure.cause(raised_from(first(), second(), explicit)) == expected


def test_a_text_alone_is_looked_up_in_the_same_table():
    assert failure.cause_in("Error out of memory at line 380 in file /src/csrc/ops.cu") == "device_memory"
    assert failure.cause_in("terminate called after throwing an instance of 'std::bad_alloc'") == "host_memory"
    assert failure.cause_in("loss 1.25 at step 3") == "work"
