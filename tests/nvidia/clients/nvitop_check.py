"""What nvitop sees: the GPUs, and the MIG devices on them."""

import nvitop
from answer import answer, tried


def machine():
    # By itself it takes a machine without a driver for one without GPUs.
    nvitop.libnvml.nvmlInit()
    return {
        "driver": tried(nvitop.Device.driver_version),
        "devices": [device(gpu) for gpu in nvitop.Device.all()],
    }


def device(gpu):
    return {"index": gpu.index, **what(gpu), "migs": [mig(one) for one in gpu.mig_devices()]}


def mig(one):
    return {"index": one.mig_index, **what(one)}


def what(one):
    return {
        "uuid": told(one.uuid),
        "name": told(one.name),
        "memory": {"total": told(one.memory_total), "used": told(one.memory_used)},
    }


def told(call):
    """What NVML says, where nvitop has a word for that it says nothing."""
    value = tried(call)
    return {"error": str(value)} if value == nvitop.NA else value


answer(machine)
