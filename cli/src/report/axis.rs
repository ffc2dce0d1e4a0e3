//! Axes whose steps are factors.

/// From numbers to places on a logarithmic axis.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// Least and most number.
    pub range: (f64, f64),
    /// Where they are.
    pub span: (f64, f64),
}

impl Log {
    /// An axis over all positive `values` with a margin of a factor on both sides; one decade if there are none.
    pub fn over(values: impl IntoIterator<Item = f64>, margin: f64, span: (f64, f64)) -> Log {
        let good = values.into_iter().filter(|v| v.is_finite() && *v > 0.0);
        let (lo, hi) = good.fold((f64::INFINITY, 0f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let range = if hi > 0.0 { (lo / margin, hi * margin) } else { (1.0, 10.0) };
        Log { range, span }
    }

    /// Where a number is; one that is outside is at the edge.
    pub fn place(&self, v: f64) -> f64 {
        let ((lo, hi), (a, b)) = (self.range, self.span);
        let v = if v.is_nan() { lo } else { v.clamp(lo, hi) };
        a + (b - a) * (v / lo).ln() / (hi / lo).ln().max(1e-9)
    }

    /// Numbers to draw lines at, and whether they are to be written: powers of ten, and where these are few also their
    /// halves and fifths. A range that has fewer than three of all these gets even steps.
    pub fn ticks(&self) -> Vec<(f64, bool)> {
        let (lo, hi) = self.range;
        let written: &[u32] = match (hi / lo).log10() {
            d if d < 0.7 => &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            d if d < 2.5 => &[1, 2, 5],
            _ => &[1],
        };
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let all = (first..=last).flat_map(|e| (1..10u32).map(move |m| (m, f64::from(m) * 10f64.powi(e))));
        // More decades than lines have room: times of a clock never get there.
        let inside = all.filter(|(_, v)| (lo..=hi).contains(v)).take(200);
        let ticks: Vec<(f64, bool)> = inside.map(|(m, v)| (v, written.contains(&m))).collect();
        if ticks.iter().filter(|t| t.1).count() >= 3 { ticks } else { even(lo, hi) }
    }
}

/// Four or so even steps.
fn even(lo: f64, hi: f64) -> Vec<(f64, bool)> {
    let rough = (hi - lo) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let first = (lo / step).ceil();
    let ticks = (0..8).map(|i| (first + f64::from(i)) * step);
    ticks.take_while(|v| *v <= hi).map(|v| (v, true)).collect()
}

/// A tick's text: `0.02`, `5`, `20k`, `3M`.
pub fn label(v: f64) -> String {
    let (v, unit) = match v {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e4 => (v / 1e3, "k"),
        v => (v, ""),
    };
    // What is left of 0.1 + 0.2.
    format!("{}{unit}", (v * 1e6).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lo: f64, hi: f64) -> String {
        let axis = Log { range: (lo, hi), span: (0.0, 1.0) };
        axis.ticks().into_iter().filter(|t| t.1).map(|t| label(t.0)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(written(0.5, 2000.0), "1 10 100 1000");
        assert_eq!(written(3.0, 120.0), "5 10 20 50 100");
        assert_eq!(written(7e3, 4e4), "10k 20k 30k 40k");
        assert_eq!((written(12.0, 26.0), written(0.9, 1.03)), ("15 20 25".into(), "0.9 0.95 1".into()));
        assert_eq!(written(2.1, 6.5), "3 4 5 6");
        assert_eq!(written(0.02, 0.3), "0.02 0.05 0.1 0.2");
        let all = Log { range: (1.0, 100.0), span: (0.0, 1.0) }.ticks();
        assert_eq!(all.len(), 19, "{all:?}");
        assert!(Log { range: (1e-300, 1e300), span: (0.0, 1.0) }.ticks().len() <= 200);
    }

    #[test]
    fn equal_factors_are_equal_steps() {
        let axis = Log::over([10.0, 1000.0, f64::NAN, 0.0, -3.0], 1.0, (100.0, 0.0));
        assert_eq!([10.0, 100.0, 1000.0].map(|v| axis.place(v).round()), [100.0, 50.0, 0.0]);
        assert_eq!([1.0, 1e9, f64::NAN].map(|v| axis.place(v)), [100.0, 0.0, 100.0]);
        let one = Log::over([5.0], 1.0, (0.0, 10.0));
        assert!(one.place(5.0).is_finite());
        assert_eq!(Log::over([], 2.0, (0.0, 1.0)).range, (1.0, 10.0));
    }
}
