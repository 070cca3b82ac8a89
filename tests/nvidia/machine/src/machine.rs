//! The description file, read and changed.
