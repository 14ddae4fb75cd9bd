//! Places where a test may end the process: in the middle of an append, between a checkpoint's files and its
//! manifest, and the like.
//!
//! They exist with the feature `failpoints` alone, which the crash test (`tests/crash`) builds the program
//! with; without it they are nothing. `FAILPOINTS` in the environment says what happens at which, in the
//! words of the crate `fail`: `append::written=3*off->return` ends the process the fourth time it comes
//! there, `panic` panics instead, `sleep(50)` waits for so many milliseconds.

/// Reads what the environment says. To be called once, before anything else.
pub fn arm() {
    // Torn down, all places would be left alone again.
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
}

/// A place of that name.
#[inline(always)]
pub fn point(_name: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(_name, |_| std::process::abort());
}
