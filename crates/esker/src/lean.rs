//! The allocator's settings for work that is planned to the byte.
//!
//! glibc gives a freed buffer back to the system at once if it is larger than a threshold, and raises that threshold to
//! the size of each larger buffer that is freed, up to 32 MiB. The buffers of an import and of a compaction have just
//! these sizes: most of what was freed stays with the process, in pieces that the next stage cannot use. An import of
//! 400,000 rows of 384 under 256 MiB held 465 MiB at its peak; with a fixed threshold 235. It reads these settings only
//! as a process starts.
//!
//! Such a buffer's pages are then the system's to find each time. Huge pages, where the kernel gives them to who asks, make
//! that 500 times fewer: a compaction of a million rows of 768 spent 52 s of processor time in the kernel, with them 40.

/// glibc's settings: buffers of half a MiB or more are the system's as soon as they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "524288"),
    ("MALLOC_TRIM_THRESHOLD_", "524288"),
    ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
];

/// Starts this program again in its place with a fixed threshold, unless it has one or the allocator is another.
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
