//! The process's allocator: the system's, but a host without memory is one line and a status, as any other failure of the host.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::{self, Write};
use std::io;

use crate::end::{leave, tell_alone};
use crate::outcome::Outcome;

/// The system's allocator, which ends the process where the standard library would abort it.
pub struct Allocator;

// SAFETY: every call goes to the system's allocator as it is, and so does every answer but a refusal, which does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the trait's contract, which is that of the system's allocator, too.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; the pointer came from the system's allocator.
        given(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

fn given(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() {
        refuse(size);
    }
    pointer
}

/// Says so without memory of its own.
#[cold]
fn refuse(size: usize) -> ! {
    let status = Outcome::Failed(String::new()).status();
    tell_alone(status);
    let mut line = Line { text: [0; 128], length: 0 };
    let _ = writeln!(line, "carpel: The host gives no memory: {size} bytes were asked for");
    // The descriptor itself: the standard library's handle may be locked by who just asked for memory.
    let _ = nix::unistd::write(io::stderr(), &line.text[..line.length]);
    leave(status)
}

/// Text of a bounded length.
struct Line {
    text: [u8; 128],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}
