//! Divvy's plugin for NVIDIA GPUs.
