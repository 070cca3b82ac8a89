"""What NVIDIA's own bindings of NVML see."""

import pynvml as nvml
from answer import answer, tried


def machine():
    nvml.nvmlInit()
    count = tried(nvml.nvmlDeviceGetCount)
    return {
        "driver": tried(nvml.nvmlSystemGetDriverVersion),
        "cuda": tried(cuda),
        "count": count,
        "devices": [tried(device, n) for n in range(count)] if isinstance(count, int) else [],
    }


def cuda():
    version = nvml.nvmlSystemGetCudaDriverVersion_v2()
    return f"{version // 1000}.{version % 1000 // 10}"


def device(index):
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "index": tried(nvml.nvmlDeviceGetIndex, handle),
        "uuid": tried(nvml.nvmlDeviceGetUUID, handle),
        "name": tried(nvml.nvmlDeviceGetName, handle),
        "minor": tried(nvml.nvmlDeviceGetMinorNumber, handle),
        "pci": tried(pci, handle),
        "memory": tried(memory, handle),
        "mig": tried(mig_mode, handle),
        "migs": tried(migs, handle),
    }


def pci(handle):
    return nvml.nvmlDeviceGetPciInfo(handle).busId


def memory(handle):
    try:
        now = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError_FunctionNotFound:
        # A driver before 510: there, what it reserves is part of what is used.
        now = nvml.nvmlDeviceGetMemoryInfo(handle)
    reserved = getattr(now, "reserved", None)
    return {"total": now.total, "reserved": reserved, "used": now.used, "free": now.free}


def mig_mode(handle):
    current, pending = nvml.nvmlDeviceGetMigMode(handle)
    return {"current": current, "pending": pending}


def migs(handle):
    count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    if count == 0 or nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_DISABLE:
        return []
    found = []
    for index in range(count):
        try:
            one = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue  # indices have gaps: there is one for each that could be made
        except nvml.NVMLError as error:
            found.append({"index": index, "error": f"{type(error).__name__}: {error}"})
            continue
        found.append(mig(index, one))
    return found


def mig(index, handle):
    return {
        "index": index,
        "uuid": tried(nvml.nvmlDeviceGetUUID, handle),
        "name": tried(nvml.nvmlDeviceGetName, handle),
        "instance": tried(nvml.nvmlDeviceGetGpuInstanceId, handle),
        "compute": tried(nvml.nvmlDeviceGetComputeInstanceId, handle),
        "memory": tried(memory, handle),
    }


answer(machine)
