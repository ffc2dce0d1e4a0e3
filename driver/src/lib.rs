//! From a model file to an artifact: the whole compiler as one library call.
