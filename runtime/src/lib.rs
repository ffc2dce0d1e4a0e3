//! The thin runtime: artifact, loader, workers, KV cache, sampler, text.
