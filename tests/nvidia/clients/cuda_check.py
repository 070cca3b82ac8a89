"""What CUDA's driver sees, by NVIDIA's low-level bindings.

With a number of bytes it also allocates as many on the first device, and frees them.
"""

import sys
import uuid

from answer import answer, tried
from cuda.bindings import driver as cuda


class CudaError(Exception):
    """CUDA's own name of an error: CUDA_ERROR_OUT_OF_MEMORY."""


def asked(call, *arguments):
    """What a function of CUDA's says beyond its code."""
    code, *said = call(*arguments)
    if code != cuda.CUresult.CUDA_SUCCESS:
        raise CudaError(code.name)
    return said[0] if len(said) == 1 else said


def machine():
    asked(cuda.cuInit, 0)
    count = asked(cuda.cuDeviceGetCount)
    found = {
        "cuda": tried(version),
        "count": count,
        "devices": [tried(device, n) for n in range(count)],
    }
    if len(sys.argv) > 1:
        found["allocation"] = tried(allocation, int(sys.argv[1]))
    return found


def version():
    number = asked(cuda.cuDriverGetVersion)
    return f"{number // 1000}.{number % 1000 // 10}"


def device(ordinal):
    this = asked(cuda.cuDeviceGet, ordinal)
    attribute = cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    return {
        "ordinal": ordinal,
        "uuid": tried(uuid_of, this),
        "name": tried(name, this),
        "memory": {"total": tried(asked, cuda.cuDeviceTotalMem, this)},
        "multiprocessors": tried(asked, cuda.cuDeviceGetAttribute, attribute, this),
    }


def uuid_of(this):
    """As NVML writes it, less its GPU- or MIG-."""
    return str(uuid.UUID(bytes=asked(cuda.cuDeviceGetUuid, this).bytes))


def name(this):
    return asked(cuda.cuDeviceGetName, 256, this).split(b"\0")[0].decode()


def allocation(size):
    this = asked(cuda.cuDeviceGet, 0)
    context = asked(cuda.cuDevicePrimaryCtxRetain, this)
    try:
        asked(cuda.cuCtxSetCurrent, context)
        before = asked(cuda.cuMemGetInfo)
        memory = asked(cuda.cuMemAlloc, size)
        after = asked(cuda.cuMemGetInfo)
        asked(cuda.cuMemFree, memory)
        return {"bytes": size, "ok": True, "free": before[0], "less": before[0] - after[0]}
    finally:
        asked(cuda.cuDevicePrimaryCtxRelease, this)


answer(machine)
