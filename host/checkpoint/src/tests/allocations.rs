//! An allocator that remembers and can bound the largest request of each thread: a lying length is caught when it is
//! believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

struct Watched;

#[global_allocator]
static WATCHED: Watched = Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// Larger requests fail.
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Whether this thread may have as much.
fn note(size: usize) -> bool {
    // A thread that ends has nothing to remember any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    LIMIT.try_with(Cell::get).map_or(true, |limit| size <= limit)
}

// SAFETY: every call goes to the system's allocator with the arguments that came, or fails as an allocator may.
#[allow(unsafe_code, reason = "only an allocator sees what is asked of an allocator")]
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if note(layout.size()) { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if note(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { null_mut() }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if note(size) { unsafe { System.realloc(pointer, layout, size) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `work` answers, and the largest that this thread asked for meanwhile.
pub(super) fn largest<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let answer = work();
    (answer, LARGEST.get())
}

/// What `work` answers while no request of this thread may be larger.
pub(super) fn limited<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    LIMIT.set(limit);
    let answer = work();
    LIMIT.set(usize::MAX);
    answer
}

#[test]
fn requests_are_seen() {
    let (bytes, largest) = largest(|| vec![0u8; 12_345]);
    assert_eq!((bytes.len(), largest), (12_345, 12_345));
}
