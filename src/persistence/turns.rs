//! When the threads of this process run: who waits for a disk or a client goes before who computes.
//!
//! A fair scheduler lets a busy thread finish its turn before one that has just woken up, and where it does so it looks again
//! at its next tick, up to 4 ms later: a log that was told in 50 µs that its bytes are on disk would hear of it then. So
//! threads ask for short turns, and those that compute for long end theirs themselves, between two series.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// The shortest turn that Linux grants (6.12 and later; before, and elsewhere, turns stay as they are).
const TURN: Duration = Duration::from_micros(100);

/// Of 19: a tenth of the time of a thread that did not yield, where both could run.
const NICE: i32 = 10;

thread_local! {
    /// When the present turn began; `None` for threads that do not take turns.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Small pieces of work done so far.
    static PIECES: Cell<u32> = const { Cell::new(0) };
}

/// For threads that mostly wait and are waited for: they run as soon as they have something to do, for a short while each
/// time.
pub fn run_soon() {
    ask_for_turns(0);
}

/// For threads that compute for long: others get their turn wherever this one calls [`end_turn`].
pub fn take_turns() {
    ask_for_turns(0);
    BEGAN.set(Some(Instant::now()));
}

/// [`take_turns`] for work that can wait for that of others. Not to the end: it may hold what others wait for.
pub fn yield_to_others() {
    ask_for_turns(NICE);
    BEGAN.set(Some(Instant::now()));
}

/// Does this thread take turns, and has its own lasted long enough? To be asked every few microseconds of work: elsewhere it
/// costs a read of a thread's variable.
#[inline]
pub fn turn_is_over() -> bool {
    BEGAN.get().is_some_and(|began| began.elapsed() >= TURN)
}

/// So many small pieces of work are done between two looks at the clock.
const PIECES_PER_LOOK: u32 = 16;

/// [`turn_is_over`] after a piece of work of less than a microsecond, which a look at the clock after each would make dearer.
#[inline]
pub fn small_turn_is_over() -> bool {
    if BEGAN.get().is_none() {
        return false;
    }
    let pieces = PIECES.get().wrapping_add(1);
    PIECES.set(pieces);
    pieces.is_multiple_of(PIECES_PER_LOOK) && turn_is_over()
}

/// [`end_turn`] after such a piece.
#[inline]
pub fn end_small_turn() {
    if small_turn_is_over() {
        end_turn();
    }
}

/// Lets others run if [`turn_is_over`]. To be called without locks that requests wait for.
#[inline]
pub fn end_turn() {
    if turn_is_over() {
        thread::yield_now();
        BEGAN.set(Some(Instant::now()));
    }
}

fn ask_for_turns(nice: i32) {
    /// As the kernel has it (`sched_setattr(2)`), in its first version.
    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let (size, runtime) = (size_of::<SchedAttr>() as u32, TURN.as_nanos() as u64);
    let attr = SchedAttr { size, nice, runtime, ..SchedAttr::default() };
    // SAFETY: the kernel reads `size` bytes of a value that outlives the call; 0 is the calling thread, and policy 0 the one
    // it has.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if done != 0 {
        tracing::debug!(nice, "cannot lower the priority of a thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_take_turns_end_them() {
        // Wishes: whether they are granted is up to the system, but the thread goes on as it was.
        for (ask, is_taking_turns) in [(run_soon as fn(), false), (take_turns, true), (yield_to_others, true)] {
            let done = thread::spawn(move || {
                ask();
                let began = Instant::now();
                while began.elapsed() < TURN {
                    std::hint::spin_loop();
                }
                let was_over = turn_is_over();
                end_turn();
                (was_over, BEGAN.get().is_some_and(|next| next > began))
            });
            assert_eq!(done.join().unwrap(), (is_taking_turns, is_taking_turns));
        }
        assert!(!turn_is_over());
    }
}
