//! Failures that a run rightly goes on after.

use crate::tracer::Call;

/// Why the failure changes nothing; none if it must.
pub fn reason(_call: &Call, _errno: i32) -> Option<&'static str> {
    None
}
