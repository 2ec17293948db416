//! The allocator's settings for work that is planned to the byte.
//!
//! glibc gives a freed buffer back to the system at once if it is larger than a threshold, and raises that threshold to
//! the size of each larger buffer that is freed, up to 32 MiB. The buffers of an import and of a compaction have just
//! these sizes, and each thread keeps what it freed in a heap of its own, in pieces that the next stage cannot use: an
//! import of 400,000 rows of 384 under 256 MiB held 465 MiB at its peak. A low threshold makes that 235, but then nearly every
//! buffer is new, zeroed by the kernel page by page. One heap for all threads keeps most and finds it again: a compaction of a
//! million rows of 768 spent 56 s of processor time in the kernel with the one, 34 s with the other, and held as much
//! (698 MB). glibc reads these settings only as a process starts.
//!
//! Huge pages, where the kernel gives them to who asks, make pages that are still to be found 500 times fewer.

/// glibc's settings: buffers below 32 MiB, the most it takes, come from one heap, which keeps up to 1 GiB at its end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SETTINGS: [(&str, &str); 4] = [
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
    ("MALLOC_ARENA_MAX", "1"),
    ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
];

/// Starts this program again in its place with these settings, unless it has some or the allocator is another.
pub fn restart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::process::CommandExt;
        if std::env::var_os(SETTINGS[0].0).is_some() {
            return;
        }
        let mut args = std::env::args_os();
        let (Some(name), Ok(program)) = (args.next(), std::env::current_exe()) else { return };
        let mut again = std::process::Command::new(program);
        again.arg0(name).args(args).envs(SETTINGS);
        // It returns only when it fails; then the work takes more memory than planned.
        let e = again.exec();
        tracing::debug!(error = %e, "the allocator keeps its settings");
    }
}
