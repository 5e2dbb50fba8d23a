//! The memory of the process: the allocator that wipes, and what is done once at start so that nobody else reads it.
//!
//! The only file with `unsafe`.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use rustix::process::{Resource, Rlimit};

/// An allocator, except that freed memory is cleared first.
///
/// `realloc` is left as the trait has it (allocate, copy, free): a block that is moved by the system's own `realloc`
/// would leave its old content behind.
pub struct Wiping<A>(A);

/// False in a build that shows what it is for (`scripts/build-unwiped`): freed memory is cleared.
pub const WIPE_FREED: bool = cfg!(not(wiping = "types"));
/// False in two builds that show what it is for: buffers that stay in use keep nothing of what passed through.
pub const WIPE_KEPT: bool = cfg!(not(any(wiping = "types", wiping = "freed")));

#[global_allocator]
static ALLOCATOR: Wiping<System> = Wiping(System);

// SAFETY: every call is handed to the inner allocator with the caller's own arguments. `dealloc` writes within the block
// that is being freed, which the caller owns until then.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Wiping<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        #[cfg(fuzzing)]
        refuse_too_much(layout);
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        #[cfg(fuzzing)]
        refuse_too_much(layout);
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe {
            if WIPE_FREED && !(layout.size() >= LARGE && give_back(block, layout.size())) {
                clear(block, layout.size());
            }
            self.0.dealloc(block, layout);
        }
    }
}

/// From this size on a block is a mapping of its own (the largest threshold of glibc is 32 MiB, that of musl 128 KiB), and
/// most of it may never have been used: a driver reserves what a server says that its next message will have. To clear
/// such a block by writing would bring in all of it.
const LARGE: usize = 64 << 20;

/// As deep as work on a request goes: a signer of AWS requests, inlined as a whole, left eight bytes of its key there.
const DEEP: usize = 128 * 1024;

/// Clears the stack below the caller: what functions that have returned left there, of values that they held in registers.
///
/// For a thread that has nothing to do. Takes some microseconds.
#[inline(never)]
pub fn wipe_stack() {
    if WIPE_KEPT {
        #[allow(clippy::large_stack_arrays, reason = "that it lies on the stack is what it is for")]
        let below = [0_u8; DEEP];
        // Without it nobody would need the zeros.
        std::hint::black_box(&below);
    }
}

/// # Safety
/// The caller owns so many bytes from `block` on.
unsafe fn clear(block: *mut u8, size: usize) {
    if size == 0 {
        return;
    }
    unsafe {
        block.write_bytes(0, size);
        // Without it the compiler drops a store that nothing reads any more.
        zeroize::optimization_barrier(&*block);
    }
}

/// Clears a large block by giving its pages back to the system; false if that is refused.
///
/// # Safety
/// The caller owns so many bytes from `block` on, and frees them next.
unsafe fn give_back(block: *mut u8, size: usize) -> bool {
    /// The largest pages there are on the machines that we build for.
    const PAGE: usize = 64 * 1024;
    let before = block.align_offset(PAGE);
    let whole = (size - before) / PAGE * PAGE;
    // SAFETY: all of it is within the block. Pages that are locked are not given back; the lock ends with the mapping, which
    // ends now.
    unsafe {
        let first = block.add(before);
        let _ = rustix::mm::munlock(first.cast(), whole);
        #[cfg(target_os = "linux")]
        let given = rustix::mm::madvise(first.cast(), whole, rustix::mm::Advice::LinuxDontNeed).is_ok();
        #[cfg(not(target_os = "linux"))]
        let given = false;
        if given {
            clear(block, before);
            clear(first.add(whole), size - before - whole);
        }
        given
    }
}

/// No input of a fuzz target has a use for a block of more than 64 MiB.
#[cfg(fuzzing)]
fn refuse_too_much(layout: Layout) {
    if layout.size() > 64 << 20 {
        std::process::abort();
    }
}

/// What could not be done at start. The process may go on: each is one of several defences.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// The kernel refused to make the process unreadable to others of the same user.
    #[error("cannot make the process undumpable: {0}")]
    Dumpable(io::Error),
    /// The kernel refused to switch core files off.
    #[error("cannot switch core files off: {0}")]
    CoreLimit(io::Error),
    /// Threads were running already (or it cannot be told), so the environment was left as it is.
    #[error("the environment was not cleared: more than one thread may be running")]
    Threads,
}

/// Makes the process unreadable to others: not dumpable, no core files, no inherited credentials in its environment.
///
/// To be called first in `main`. Returns what could not be done.
pub fn harden() -> Vec<HardenError> {
    let mut failed = conceal();
    if let Err(e) = clear_environment() {
        failed.push(e);
    }
    failed
}

/// The same, but the environment stays: for what runs at a person's command and hands it on.
pub fn conceal() -> Vec<HardenError> {
    let mut failed = Vec::new();
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        failed.push(HardenError::Dumpable(e.into()));
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(e) = rustix::process::setrlimit(Resource::Core, none) {
        failed.push(HardenError::CoreLimit(e.into()));
    }
    failed
}

/// Keeps every page of the process out of swap, as each comes into use. Without the privilege to lock any amount it is
/// refused: a limit reached later would fail an allocation, and with it the process.
pub fn lock_pages() -> io::Result<()> {
    use rustix::mm::{MlockAllFlags, mlockall};
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
    #[cfg(target_os = "linux")]
    let unlimited = unlimited
        || rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::IPC_LOCK));
    if !unlimited {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

/// True if this machine swaps to somewhere, or if it cannot be told.
pub fn may_swap() -> bool {
    // One line of headings, then one for each place.
    std::fs::read_to_string("/proc/swaps").map_or(true, |swaps| swaps.lines().count() > 1)
}

/// Removes what [`is_credential`] names: drivers read some of it, children would inherit all of it.
fn clear_environment() -> Result<(), HardenError> {
    if std::fs::read_dir("/proc/self/task").map(Iterator::count).ok() != Some(1) {
        return Err(HardenError::Threads);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_credential) {
            // SAFETY: this is the only thread, counted above, so nobody reads the environment meanwhile.
            unsafe {
                wipe_variable(&name);
                std::env::remove_var(&name);
            }
        }
    }
    Ok(())
}

/// Clears the value of a variable where the kernel put it, which [`std::env::remove_var`] leaves as it is: for whoever
/// reads the process's memory, or its `environ` file.
///
/// # Safety
/// No other thread may use the environment.
unsafe fn wipe_variable(name: &OsStr) {
    unsafe extern "C" {
        fn getenv(name: *const c_char) -> *mut c_char;
    }
    let Ok(name) = CString::new(name.as_bytes()) else { return };
    // SAFETY: the name ends with a zero. What comes back is null, or a text of the process's own memory that ends with a
    // zero and that nobody else uses.
    unsafe {
        let mut at = getenv(name.as_ptr());
        while !at.is_null() && *at != 0 {
            at.write_volatile(0);
            at = at.add(1);
        }
    }
}

/// True for a variable that steers a driver or may hold a credential. The plugin is configured by its arguments and by
/// its mounts alone.
fn is_credential(name: &str) -> bool {
    const PREFIXES: &[&str] = &["PG", "MYSQL", "MARIADB", "REDIS", "AWS_"];
    const PARTS: &[&str] = &["TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "PRIVATE_KEY", "_PWD"];
    let upper = name.to_ascii_uppercase();
    PREFIXES.iter().any(|p| upper.starts_with(p)) || PARTS.iter().any(|p| upper.contains(p))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Counts the blocks that come back, and those of them that are not zero.
    #[derive(Default)]
    struct Inspector {
        freed: AtomicUsize,
        dirty: AtomicUsize,
    }

    // SAFETY: hands everything to the system's allocator; reads a block only while it is still allocated and, being
    // written over its whole length before, initialised.
    unsafe impl GlobalAlloc for Inspector {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            let content = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            self.freed.fetch_add(1, Relaxed);
            self.dirty.fetch_add(usize::from(content.iter().any(|b| *b != 0)), Relaxed);
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn clears_what_is_freed_and_what_is_outgrown() {
        let allocator = Wiping(Inspector::default());
        let layout = Layout::new::<[u8; 300]>();
        // SAFETY: the layout is not empty, the block is written within its size and freed once, with its own layout.
        unsafe {
            let block = allocator.alloc(layout);
            assert!(!block.is_null());
            block.write_bytes(7, 300);
            let block = allocator.realloc(block, layout, 500);
            assert!(!block.is_null());
            assert_eq!(*block.add(299), 7);
            block.write_bytes(7, 500);
            allocator.dealloc(block, Layout::new::<[u8; 500]>());
        }
        assert_eq!(allocator.0.freed.load(Relaxed), 2);
        assert_eq!(allocator.0.dirty.load(Relaxed), 0);
    }

    /// The most memory that the process ever had, in MiB.
    #[cfg(target_os = "linux")]
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn clears_a_large_block_without_bringing_in_what_was_never_used() {
        let allocator = Wiping(Inspector::default());
        let used = Layout::from_size_align(LARGE + 12_345, 8).unwrap();
        // SAFETY: written within its size, and freed once with its own layout.
        unsafe {
            let block = allocator.alloc(used);
            block.write_bytes(7, used.size());
            allocator.dealloc(block, used);
        }
        assert_eq!((allocator.0.freed.load(Relaxed), allocator.0.dirty.load(Relaxed)), (1, 0));
        let reserved = Layout::from_size_align(1 << 30, 1).unwrap();
        let before = peak();
        for locked in [false, true] {
            // SAFETY: as above; only its ends are used.
            unsafe {
                let block = ALLOCATOR.alloc(reserved);
                assert!(!block.is_null());
                if locked && rustix::mm::mlock_with(block.cast(), 1 << 30, rustix::mm::MlockFlags::ONFAULT).is_err() {
                    eprintln!("nothing was proven of locked memory");
                }
                block.write(7);
                block.add((1 << 30) - 1).write(7);
                ALLOCATOR.dealloc(block, reserved);
            }
        }
        assert!(peak() < before + 200, "{before} MiB became {}", peak());
    }

    #[test]
    fn names_of_credentials() {
        for name in [
            "PGPASSWORD",
            "PGHOST",
            "AWS_SESSION_TOKEN",
            "AWS_REGION",
            "BAO_TOKEN",
            "VAULT_TOKEN",
            "BAO_UNWRAP_TOKEN",
            "MYSQL_PWD",
            "REDISCLI_AUTH",
            "some_api_secret",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in [
            "PATH",
            "TMPDIR",
            "PLUGIN_CLIENT_CERT",
            "PLUGIN_PROTOCOL_VERSIONS",
            "VAULT_BACKEND_PLUGIN",
            "BAO_VERSION",
            "TZ",
            "HOME",
            "PWD",
        ] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn leaves_the_environment_alone_beside_other_threads() {
        let (started, wait) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            started.send(()).ok();
            stopped.recv().ok();
        });
        wait.recv().ok();
        assert!(matches!(clear_environment(), Err(HardenError::Threads)));
        drop(stop);
        assert!(thread.join().is_ok());
    }
}
