//! Graph passes: canonicalisation, fusions, buffer planning.
