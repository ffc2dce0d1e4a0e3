//! What a kernel must not do, found as it happens.

pub(crate) mod bounds;
pub(crate) mod init;
pub(crate) mod proxy;
pub(crate) mod race;

use crate::{Fault, FaultKind};

/// A mistake of the instruction at hand, or of one seen before that only now turns out to be one.
pub(crate) enum Bad {
    Here(FaultKind, String),
    There(Box<Fault>),
}

impl Bad {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Bad::Here(kind, message.into())
    }
}
