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
    return {
        "index": gpu.index,
        "uuid": tried(gpu.uuid),
        "name": tried(gpu.name),
        "memory": {"total": plain(tried(gpu.memory_total)), "used": plain(tried(gpu.memory_used))},
        "migs": [mig(one) for one in gpu.mig_devices()],
    }


def mig(one):
    return {
        "index": one.mig_index,
        "uuid": tried(one.uuid),
        "name": tried(one.name),
        "memory": {"total": plain(tried(one.memory_total)), "used": plain(tried(one.memory_used))},
    }


def plain(value):
    """A number, an error, or nvitop's word for what NVML does not tell."""
    return value if isinstance(value, (int, dict)) else {"error": str(value)}


answer(machine)
