//! Stands in for NVIDIA's `libcuda.so.1` (CUDA's driver API).
