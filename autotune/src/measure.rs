//! Timing: what is the same on every machine.
//!
//! The candidates of a batch take turns, A B C A B C, so that a machine that slows down slows all of them; another one begins
//! each round. What is reported are medians. Searches compare lower quartiles, since other programs only ever add time.

use crate::{TuneError, stats};
use std::time::Instant;

/// A candidate whose first calls all take this many times as long as the fastest is out.
const HOPELESS: f64 = 3.0;

/// Times of one candidate.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    /// Nanoseconds of a call, one number a sample.
    pub samples: Vec<f64>,
}

impl Timing {
    /// Median.
    pub fn ns(&self) -> f64 {
        stats::median(&self.samples)
    }

    /// Lower quartile.
    pub fn low(&self) -> f64 {
        stats::quantile(&self.samples, 0.25)
    }

    /// Median distance from the median.
    pub fn mad(&self) -> f64 {
        stats::mad(&self.samples)
    }

    /// How much of `other`'s time this takes, sample by sample, and the standard error of that.
    pub fn ratio(&self, other: &Timing) -> (f64, f64) {
        let ratios: Vec<f64> = self.samples.iter().zip(&other.samples).map(|(a, b)| a / b).collect();
        // The median of a normal sample spreads 1.2533 times as much as its mean; 1.4826 MAD estimate the deviation.
        let error = 1.2533 * 1.4826 * stats::mad(&ratios) / (ratios.len().max(1) as f64).sqrt();
        (stats::median(&ratios), error)
    }
}

/// Times candidates in turns, `samples` times each or as often as comes out `until` then. `first` is what a call of each took
/// at first sight; those that were far behind are timed no further. `sample` gives nanoseconds of a call of one of them.
pub(crate) fn turns(
    first: &[f64],
    samples: usize,
    until: Instant,
    mut sample: impl FnMut(usize) -> Result<f64, TuneError>,
) -> Result<Vec<Timing>, TuneError> {
    let limit = HOPELESS * first.iter().copied().fold(f64::INFINITY, f64::min).max(1.0);
    let start = |ns: &f64| Timing { samples: if *ns > limit { vec![*ns] } else { vec![] } };
    let mut timings: Vec<Timing> = first.iter().map(start).collect();
    for round in 0..samples {
        if round > 0 && Instant::now() >= until {
            break;
        }
        for turn in 0..first.len() {
            let i = (turn + round) % first.len();
            if first[i] <= limit {
                timings[i].samples.push(sample(i)?);
            }
        }
    }
    Ok(timings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_pairs() {
        let base = Timing { samples: vec![10.0, 20.0, 10.0, 40.0] };
        let half = Timing { samples: vec![5.0, 10.0, 5.0, 20.0] };
        assert_eq!(half.ratio(&base), (0.5, 0.0));
        assert_eq!((base.ns(), base.mad()), (15.0, 5.0));
        assert!(Timing { samples: vec![5.0, 12.0, 5.0, 20.0] }.ratio(&base).1 < 0.1);
    }
}
