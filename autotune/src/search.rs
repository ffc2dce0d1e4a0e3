//! Search: which points of a grid to time, and how often. Knows nothing of kernels; deterministic given the costs.
//!
//! A point is one index an axis; the default is all zeros. Costs are times relative to the default's in the same batch, so
//! a machine that slows down between batches misleads nobody.
//!
//! | search | does | for |
//! |---|---|---|
//! | [`Exhaustive`] | times every point equally often | small spaces, a last word |
//! | [`Halving`] | times all, keeps the better half, doubles the samples | up to about a hundred points |
//! | [`Descent`] | walks along one axis after the other from several starts | larger spaces |
//!
//! ```
//! use tilewright_autotune::search::{Halving, Point, Search};
//! // Best at (2, 1).
//! let mut cost = |points: &[Point], _samples: usize| -> Vec<Option<f64>> {
//!     points.iter().map(|p| Some(1.0 + p[0].abs_diff(2) as f64 + p[1].abs_diff(1) as f64)).collect()
//! };
//! assert_eq!(Halving { samples: 3 }.run(&[4, 3], &mut cost), [2, 1]);
//! ```

use crate::work::Random;
use std::collections::HashMap;

/// An index into each axis.
pub type Point = Vec<usize>;

/// Where costs come from.
pub trait Cost {
    /// Costs of `points`, each timed `samples` times, interleaved; `None` for those that cannot be used.
    fn time(&mut self, points: &[Point], samples: usize) -> Vec<Option<f64>>;

    /// Whether to stop: the budget is spent, or nothing better is possible.
    fn is_over(&self) -> bool {
        false
    }
}

impl<F: FnMut(&[Point], usize) -> Vec<Option<f64>>> Cost for F {
    fn time(&mut self, points: &[Point], samples: usize) -> Vec<Option<f64>> {
        self(points, samples)
    }
}

/// A way to find a good point.
pub trait Search {
    /// Name in records.
    fn name(&self) -> &'static str;

    /// The best point found in the grid of these sizes.
    fn run(&self, sizes: &[usize], cost: &mut dyn Cost) -> Point;
}

/// Every point, in order; the last index changes fastest.
pub fn grid(sizes: &[usize]) -> Vec<Point> {
    let mut all = vec![vec![]];
    for &n in sizes {
        all = all.into_iter().flat_map(|p: Point| (0..n).map(move |i| [p.clone(), vec![i]].concat())).collect();
    }
    all
}

/// Points of a grid; saturates.
pub fn grid_len(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |n: usize, &s| n.saturating_mul(s))
}

/// Points with their costs, best first; those that cannot be used are left out.
fn ranked(points: &[Point], costs: &[Option<f64>]) -> Vec<(Point, f64)> {
    let mut all: Vec<(Point, f64)> = points.iter().zip(costs).filter_map(|(p, c)| Some((p.clone(), (*c)?))).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}

fn best(points: &[Point], costs: &[Option<f64>], sizes: &[usize]) -> Point {
    ranked(points, costs).into_iter().next().map_or_else(|| vec![0; sizes.len()], |b| b.0)
}

/// Points that are timed together at most: more would be far apart in time.
const BATCH: usize = 16;

fn time_all(points: &[Point], samples: usize, cost: &mut dyn Cost) -> Vec<Option<f64>> {
    let mut costs = vec![];
    for batch in points.chunks(BATCH) {
        if cost.is_over() && !costs.is_empty() {
            costs.resize(points.len(), None);
            break;
        }
        costs.extend(cost.time(batch, samples));
    }
    costs
}

/// Times every point.
#[derive(Clone, Copy, Debug)]
pub struct Exhaustive {
    /// Samples a point.
    pub samples: usize,
}

impl Search for Exhaustive {
    fn name(&self) -> &'static str {
        "exhaustive"
    }

    fn run(&self, sizes: &[usize], cost: &mut dyn Cost) -> Point {
        let points = grid(sizes);
        let costs = time_all(&points, self.samples, cost);
        best(&points, &costs, sizes)
    }
}

/// Successive halving.
#[derive(Clone, Copy, Debug)]
pub struct Halving {
    /// Samples a point in the first round.
    pub samples: usize,
}

impl Search for Halving {
    fn name(&self) -> &'static str {
        "halving"
    }

    fn run(&self, sizes: &[usize], cost: &mut dyn Cost) -> Point {
        let (mut points, mut samples) = (grid(sizes), self.samples);
        loop {
            let costs = time_all(&points, samples, cost);
            let ranked = ranked(&points, &costs);
            let keep = ranked.len().div_ceil(2);
            if keep <= 1 || cost.is_over() {
                return ranked.into_iter().next().map_or_else(|| vec![0; sizes.len()], |b| b.0);
            }
            points = ranked.into_iter().take(keep).map(|r| r.0).collect();
            samples *= 2;
        }
    }
}

/// Coordinate descent from the default and from random points.
#[derive(Clone, Debug)]
pub struct Descent {
    /// Samples a point.
    pub samples: usize,
    /// Random starts beside the default.
    pub restarts: usize,
    /// Where random starts come from.
    pub seed: u64,
    /// One more start, known from elsewhere.
    pub start: Option<Point>,
}

/// A step has to gain this much, or noise would lead.
const STEP: f64 = 0.99;

impl Descent {
    /// Walks downhill from `at` until no axis has a better value.
    fn walk(
        &self,
        sizes: &[usize],
        mut at: Point,
        known: &mut HashMap<Point, f64>,
        cost: &mut dyn Cost,
    ) -> (Point, f64) {
        let mut lowest = self.cost_of(&at, known, cost);
        loop {
            let before = lowest;
            for (axis, &size) in sizes.iter().enumerate().filter(|(_, n)| **n > 1) {
                let line: Vec<Point> = (0..size).map(|i| with(&at, axis, i)).collect();
                if line.iter().any(|p| !known.contains_key(p)) {
                    if cost.is_over() {
                        return (at, lowest);
                    }
                    // The whole line, those that are known too: only times of one batch compare.
                    for (p, c) in line.iter().zip(time_all(&line, self.samples, cost)) {
                        known.insert(p.clone(), c.unwrap_or(f64::INFINITY));
                    }
                    lowest = known[&at];
                }
                for p in line {
                    if known[&p] < lowest * STEP {
                        lowest = known[&p];
                        at = p;
                    }
                }
            }
            if lowest >= before * STEP {
                match self.diagonal(sizes, &at, lowest, known, cost) {
                    Some(p) => {
                        lowest = known[&p];
                        at = p;
                    }
                    None => return (at, lowest),
                }
            }
        }
    }

    /// A better neighbour on two axes at once: where two parameters depend on each other, no single step is one.
    fn diagonal(
        &self,
        sizes: &[usize],
        at: &Point,
        lowest: f64,
        known: &mut HashMap<Point, f64>,
        cost: &mut dyn Cost,
    ) -> Option<Point> {
        let mut near = vec![];
        for (i, j) in (0..sizes.len()).flat_map(|j| (0..j).map(move |i| (i, j))) {
            for (di, dj) in [(-1, -1), (-1, 1), (1, -1), (1, 1)] {
                let step = |axis: usize, d: isize| at[axis].checked_add_signed(d).filter(|v| *v < sizes[axis]);
                if let (Some(a), Some(b)) = (step(i, di), step(j, dj)) {
                    near.push(with(&with(at, i, a), j, b));
                }
            }
        }
        near.retain(|p| !known.contains_key(p));
        for batch in near.chunks(BATCH - 1) {
            if cost.is_over() {
                return None;
            }
            for (p, c) in batch.iter().zip(cost.time(batch, self.samples)) {
                known.insert(p.clone(), c.unwrap_or(f64::INFINITY));
            }
            let best = batch.iter().min_by(|a, b| known[*a].total_cmp(&known[*b]))?;
            if known[best] < lowest * STEP {
                return Some(best.clone());
            }
        }
        None
    }

    fn cost_of(&self, p: &Point, known: &mut HashMap<Point, f64>, cost: &mut dyn Cost) -> f64 {
        if let Some(&c) = known.get(p) {
            return c;
        }
        let c = cost.time(std::slice::from_ref(p), self.samples).into_iter().next().flatten().unwrap_or(f64::INFINITY);
        known.insert(p.clone(), c);
        c
    }
}

fn with(p: &Point, axis: usize, i: usize) -> Point {
    let mut p = p.clone();
    p[axis] = i;
    p
}

impl Search for Descent {
    fn name(&self) -> &'static str {
        "descent"
    }

    fn run(&self, sizes: &[usize], cost: &mut dyn Cost) -> Point {
        let mut random = Random(self.seed);
        let mut known = HashMap::new();
        let mut ends = vec![self.walk(sizes, vec![0; sizes.len()], &mut known, cost).0];
        let starts =
            (0..self.restarts).map(|_| sizes.iter().map(|&n| (random.next() % n.max(1) as u64) as usize).collect());
        let starts: Vec<Point> = self.start.iter().cloned().chain(starts).collect();
        for start in starts {
            if cost.is_over() {
                break;
            }
            let (end, _) = self.walk(sizes, start, &mut known, cost);
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        // The ends were timed far apart; a last batch decides between them.
        let costs = if ends.len() > 1 { time_all(&ends, 2 * self.samples, cost) } else { vec![Some(1.0)] };
        best(&ends, &costs, sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valley with a ridge in it, some points that cannot be used, and noise of one percent.
    struct Landscape {
        noise: Random,
        timed: usize,
        budget: usize,
    }

    const SIZES: [usize; 4] = [6, 5, 4, 3];

    impl Landscape {
        fn new(seed: u64, budget: usize) -> Landscape {
            Landscape { noise: Random(seed), timed: 0, budget }
        }

        fn at(p: &Point) -> Option<f64> {
            if p[0] == 5 && p[1] == 0 {
                return None;
            }
            let far = |i: usize, best: f64, k: f64| k * (p[i] as f64 - best).powi(2);
            // Two axes depend on each other.
            let tied = 0.1 * (p[0] as f64 - p[1] as f64).abs();
            Some(1.0 + far(0, 3.0, 0.08) + far(1, 3.0, 0.05) + far(2, 2.0, 0.1) + far(3, 1.0, 0.2) + tied)
        }

        fn lowest() -> f64 {
            grid(&SIZES).iter().filter_map(Landscape::at).fold(f64::INFINITY, f64::min)
        }
    }

    impl Cost for Landscape {
        fn time(&mut self, points: &[Point], samples: usize) -> Vec<Option<f64>> {
            self.timed += points.len() * samples;
            let noise = |l: &mut Landscape| 1.0 + (l.noise.next() >> 40) as f64 / f64::from(1 << 24) * 0.01;
            let mean = |l: &mut Landscape| (0..samples).map(|_| noise(l)).sum::<f64>() / samples as f64;
            points.iter().map(|p| Landscape::at(p).map(|c| c * mean(self))).collect()
        }

        fn is_over(&self) -> bool {
            self.timed >= self.budget
        }
    }

    fn searches(seed: u64) -> [Box<dyn Search>; 3] {
        [
            Box::new(Exhaustive { samples: 5 }),
            Box::new(Halving { samples: 2 }),
            Box::new(Descent { samples: 3, restarts: 3, seed, start: None }),
        ]
    }

    #[test]
    fn all_come_within_five_percent() {
        for seed in 0..50 {
            for s in searches(seed) {
                let mut land = Landscape::new(seed, usize::MAX);
                let p = s.run(&SIZES, &mut land);
                let found = Landscape::at(&p).expect("a usable point");
                assert!(found <= 1.05 * Landscape::lowest(), "{} {seed}: {p:?} costs {found}", s.name());
                let again = s.run(&SIZES, &mut Landscape::new(seed, usize::MAX));
                assert_eq!(p, again, "{} is not deterministic", s.name());
            }
        }
    }

    #[test]
    fn descent_looks_at_few() {
        let mut land = Landscape::new(1, usize::MAX);
        Descent { samples: 1, restarts: 2, seed: 1, start: None }.run(&SIZES, &mut land);
        assert!(land.timed < grid_len(&SIZES), "{} of {}", land.timed, grid_len(&SIZES));
    }

    #[test]
    fn a_spent_budget_ends_it() {
        for s in searches(3) {
            let mut land = Landscape::new(3, 40);
            let p = s.run(&SIZES, &mut land);
            assert!(Landscape::at(&p).is_some() && land.timed < 200, "{} timed {}", s.name(), land.timed);
        }
    }

    #[test]
    fn nothing_usable_gives_the_default() {
        for s in searches(0) {
            let mut none = |points: &[Point], _: usize| -> Vec<Option<f64>> { vec![None; points.len()] };
            assert_eq!(s.run(&[3, 2], &mut none), [0, 0], "{}", s.name());
            let mut one = |points: &[Point], _: usize| -> Vec<Option<f64>> { vec![Some(1.0); points.len()] };
            assert_eq!(s.run(&[], &mut one), Vec::<usize>::new());
        }
    }
}
