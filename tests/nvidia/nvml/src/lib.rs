//! Stands in for NVIDIA's `libnvidia-ml.so.1` (NVML).
