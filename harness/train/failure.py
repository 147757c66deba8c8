"""The cause of an exception: memory, the machine, or the work itself. Needs no torch.

An exception's class and its fields decide. Where a library gives no more than a text, the text is in the table below.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator
from typing import Literal

Cause = Literal["device_memory", "host_memory", "machine", "work"]
MEMORY: tuple[Cause, ...] = ("device_memory", "host_memory")
_BY_PRIORITY: tuple[Cause, ...] = (*MEMORY, "machine")  # of the causes in a chain of exceptions

_TRANSIENT = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOBUFS,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT,
    errno.EREMOTEIO,
}  # fmt: skip
# Names of classes, looked up in an exception's bases: torch, requests, httpx and urllib3 need not be imported here.
_DEVICE_MEMORY_CLASSES = {"OutOfMemoryError"}  # torch; numpy's and pyarrow's are MemoryErrors
_NETWORK_CLASSES = {
    "ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "TimeoutError",
    "DistError", "DistBackendError", "DistNetworkError", "DistStoreError",
}  # fmt: skip
# cudaError_t of torch.AcceleratorError.error_code: what the next attempt would meet again. 1 invalid value, 9 invalid
# configuration, 98 invalid function, 200 invalid image, 209 no image for this card, 218 invalid PTX, 222 PTX of a newer
# toolkit, 710 a failed assert of a kernel.
_CUDA_OUT_OF_MEMORY = 2
_CUDA_WORK = {1, 9, 98, 200, 209, 218, 222, 710}
# Errors that say what is wrong with code or settings, whatever words they hold
_OF_CODE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NameError,
    ImportError,
    SyntaxError,
    NotImplementedError,
)

# Texts of libraries that raise a plain RuntimeError, or print and exit. The first that matches decides.
_TEXTS: tuple[tuple[str, Cause], ...] = (
    # torch before AcceleratorError; Triton, whose shared memory is too small for a kernel on any attempt
    (r"device-side assert|no kernel image is available|invalid device function", "work"),
    (r"invalid configuration argument|out of resources?: shared memory", "work"),
    # glibc: too many libraries with thread-local storage
    (r"cannot allocate memory in static TLS block", "work"),
    # the host's allocators: torch's, C++'s, the kernel's ENOMEM, cuDNN's on the host
    (r"DefaultCPUAllocator|can't allocate memory|[Cc]annot allocate memory|std::bad_alloc", "host_memory"),
    (r"HOST_ALLOCATION_FAILED", "host_memory"),
    # torch, its driver API, Triton, HIP, bitsandbytes ("Error out of memory at line ...", then exit(1)), NCCL
    (r"(?i:out[ _]of[ _]memory)|cudaErrorMemoryAllocation|hipErrorOutOfMemory", "device_memory"),
    # cuBLAS, cuDNN, cuSOLVER, cuSPARSE, cuFFT, cuRAND and their HIP twins
    (r"\b(CU|HIP|ROC)[A-Z]*_\w*ALLOC(ATION)?_FAILED", "device_memory"),
    (r"CUSPARSE_STATUS_INSUFFICIENT_RESOURCES", "device_memory"),
    # torch's allocator, which asks NVML for its report and finds none (containers, MIG)
    (r"NVML_SUCCESS == [\s\S]*INTERNAL ASSERT FAILED at \S*CUDACachingAllocator", "device_memory"),
    # drivers and devices
    (r"CUDA error|CUDA driver error|Cuda failure|cuDNN error|cuBLAS error|NCCL error|NVML|HIP error", "machine"),
    (r"\bCU[A-Z]+_STATUS_\w+|ncclSystemError|ncclRemoteError|ncclInternalError", "machine"),
    # a worker of torch's DataLoader, by a signal, or one that hangs; gloo, which lost a peer
    (r"DataLoader timed out after", "machine"),
    (r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)|gloo[/\\]transport", "machine"),
    # disks, in the words of libraries that have no errno
    (r"No space left on device|Disk quota exceeded|Stale file handle|Input/output error", "machine"),
)
# torch's loader, with the word that strsignal(3) has for SIGKILL
_KILLED_LOADER = re.compile(r"DataLoader worker \(pid.*\) is killed by signal: Killed")


def killed_by(error: BaseException) -> int | None:
    """Return the number of the signal that killed the process whose end an exception reports; None if none did.

    An exception that reports the end of another process says it itself, in `killed_by`; torch's loader has a text.
    """
    for link in _chain(error):
        if _KILLED_LOADER.search(str(link)):
            return signal.SIGKILL
        number: int | None = getattr(link, "killed_by", None)
        if number is not None:
            return number
    return None


def cause(error: BaseException) -> Cause:
    """Return the cause of an exception; of a chain, memory before the machine.

    An exception that reports the end of another process says its cause itself, in `failure_cause`.
    """
    causes = {_own_cause(link) for link in _chain(error)}
    return next((candidate for candidate in _BY_PRIORITY if candidate in causes), "work")


def cause_in(text: str) -> Cause:
    """Return the cause that the table knows for a library's text, such as the end of a log; "work" if it has none."""
    return next((meaning for pattern, meaning in _TEXTS if re.search(pattern, text)), "work")


def _own_cause(error: BaseException) -> Cause:
    reported: Cause | None = getattr(error, "failure_cause", None)
    if reported is not None:
        return reported
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError):
        return "host_memory"
    if names & _DEVICE_MEMORY_CLASSES:
        return "device_memory"
    code = getattr(error, "error_code", None)
    if "AcceleratorError" in names and isinstance(code, int):
        return _of_cuda(code)
    if isinstance(error, OSError) and error.errno is not None:
        return "host_memory" if error.errno == errno.ENOMEM else "machine" if error.errno in _TRANSIENT else "work"
    if isinstance(error, _OF_CODE) or not isinstance(error, Exception):
        return "work"
    by_text = cause_in(str(error))
    return "machine" if by_text == "work" and names & _NETWORK_CLASSES else by_text


def _of_cuda(code: int) -> Cause:
    if code == _CUDA_OUT_OF_MEMORY:
        return "device_memory"
    return "work" if code in _CUDA_WORK else "machine"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and those that it came from; a ValueError is meant for people and stands for itself."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        if isinstance(link, ValueError) or hasattr(link, "failure_cause"):
            return
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
