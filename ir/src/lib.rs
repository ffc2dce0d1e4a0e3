//! Graph and kernel IR: types, ops, builder, text form, verifier, interpreter.
