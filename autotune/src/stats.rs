//! Statistics of timings. Medians and spreads that one outlier cannot move, and the mean that other tools report.
//!
//! ```
//! use tilewright_autotune::stats::{mad, median};
//! let times = [1.0, 1.1, 0.9, 1.0, 40.0];
//! assert_eq!(median(&times), 1.0);
//! assert!((mad(&times) - 0.1).abs() < 1e-12);
//! ```

/// Mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Standard deviation of the sample (n - 1); 0 of fewer than two.
pub fn stddev(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// The value below which a share `q` of the sample lies, between neighbours by line; 0 of nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    sorted[low] + (sorted[(low + 1).min(last)] - sorted[low]) * part
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Median of the distances from the median.
pub fn mad(values: &[f64]) -> f64 {
    let m = median(values);
    median(&values.iter().map(|v| (v - m).abs()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_samples() {
        let v = [4.0, 1.0, 3.0, 2.0];
        assert_eq!((mean(&v), median(&v), quantile(&v, 0.0), quantile(&v, 1.0)), (2.5, 2.5, 1.0, 4.0));
        assert!((stddev(&v) - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(mad(&v), 1.0);
    }

    #[test]
    fn small_samples() {
        assert_eq!((mean(&[]), median(&[]), stddev(&[]), mad(&[])), (0.0, 0.0, 0.0, 0.0));
        assert_eq!((mean(&[7.0]), median(&[7.0]), stddev(&[7.0]), mad(&[7.0])), (7.0, 7.0, 0.0, 0.0));
    }
}
