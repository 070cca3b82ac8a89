//! Device memory that processes have allocated, held as locks on the description file.
//!
//! Each GPU (or MIG GPU instance) has a range of offsets far behind the file's end, divided into
//! slots. A process takes one slot and holds an open-file-description read lock on as
//! many bytes of it as it has allocated. So what is allocated is what is locked: the
//! kernel adds nothing and forgets nothing, and frees it when the process ends, however.
//! Read locks need no right to write, so this works over read-only mounts. Deciding
//! whether there is room is made exclusive by `flock` on the same file.
