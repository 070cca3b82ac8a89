"""What gpustat sees. Its amounts of memory are MiB."""

import gpustat
from answer import answer


def machine():
    return {"devices": [device(gpu) for gpu in gpustat.new_query()]}


def device(gpu):
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_mib": {"total": gpu.memory_total, "used": gpu.memory_used},
    }


answer(machine)
