#!/usr/bin/env python3
"""What a program sees of CUDA, through NVIDIA's own bindings (PyPI: cuda-bindings).

    cuda_check.py [--bytes N] [--hold SECONDS]

Prints one line of JSON:
    {"version": 13000, "init": "CUDA_SUCCESS",
     "devices": [{"uuid", "name", "pci", "total", "free", "sms", "capability", "allocation"}]}

`free` and `allocation` (of --bytes on each device: "ok", "oom", or an error's name) come from
a primary context, which is only made where --bytes is given. The allocation is written
and read back, and held with the context until --hold is over: then the line is out already.
"""

import argparse
import json
import sys
import time
import uuid

from cuda.bindings import driver as cuda

PREFIX = {True: "MIG-", False: "GPU-"}


class Failed(Exception):
    """A call that did not succeed."""


def call(name, *args):
    """Calls a function, and gives its result without the code."""
    code, *rest = getattr(cuda, name)(*args)
    if code != cuda.CUresult.CUDA_SUCCESS:
        raise Failed(code.name)
    return rest[0] if len(rest) == 1 else tuple(rest)


def attribute(name, device):
    value = getattr(cuda.CUdevice_attribute, "CU_DEVICE_ATTRIBUTE_" + name)
    return call("cuDeviceGetAttribute", value, device)


def text(answer):
    return answer.split(b"\0")[0].decode()


def identity(device):
    """The UUID as NVML and CUDA_VISIBLE_DEVICES write it."""
    function = "cuDeviceGetUuid_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    name = text(call("cuDeviceGetName", 96, device))
    return PREFIX[" MIG " in name] + str(uuid.UUID(bytes=bytes(call(function, device).bytes)))


def allocate(device, size):
    """Free memory before, and what becomes of an allocation."""
    context = call("cuDevicePrimaryCtxRetain", device)
    call("cuCtxSetCurrent", context)
    free, _ = call("cuMemGetInfo")
    code, address = cuda.cuMemAlloc(size)
    if code == cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        return free, "oom"
    if code != cuda.CUresult.CUDA_SUCCESS:
        return free, code.name
    sent = b"divvy"[: min(size, 5)]
    got = bytearray(len(sent))
    begin, end = call("cuEventCreate", 0), call("cuEventCreate", 0)
    call("cuEventRecord", begin, 0)
    call("cuMemcpyHtoD", address, sent, len(sent))
    call("cuMemcpyDtoH", got, address, len(sent))
    call("cuEventRecord", end, 0)
    call("cuEventSynchronize", end)
    if call("cuEventElapsedTime", begin, end) < 0:
        return free, "time ran backwards"
    return free, "ok" if bytes(got) == sent else "what was read is not what was written"


def describe(number, size):
    device = call("cuDeviceGet", number)
    found = {
        "uuid": identity(device),
        "name": text(call("cuDeviceGetName", 96, device)),
        "pci": text(call("cuDeviceGetPCIBusId", 16, device)),
        "total": call("cuDeviceTotalMem", device),
        "sms": attribute("MULTIPROCESSOR_COUNT", device),
        "capability": "{}.{}".format(
            attribute("COMPUTE_CAPABILITY_MAJOR", device),
            attribute("COMPUTE_CAPABILITY_MINOR", device),
        ),
    }
    if size is not None:
        try:
            found["free"], found["allocation"] = allocate(device, size)
        except Failed as failed:
            found["allocation"] = "oom" if "OUT_OF_MEMORY" in str(failed) else str(failed)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--hold", type=float, default=0)
    arguments = parser.parse_args()
    said = {"version": None, "init": None, "devices": []}
    try:
        said["version"] = call("cuDriverGetVersion")
        said["init"] = cuda.cuInit(0)[0].name
        if said["init"] == "CUDA_SUCCESS":
            count = call("cuDeviceGetCount")
            said["devices"] = [describe(n, arguments.bytes) for n in range(count)]
    except (Failed, RuntimeError) as failed:
        # RuntimeError: the bindings find no driver, or one that is too old for them.
        said["error"] = str(failed)
    print(json.dumps(said), flush=True)
    time.sleep(arguments.hold)
    return 0 if said["init"] == "CUDA_SUCCESS" and "error" not in said else 1


if __name__ == "__main__":
    sys.exit(main())
