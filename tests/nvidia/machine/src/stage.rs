//! Makes a machine's folder.
