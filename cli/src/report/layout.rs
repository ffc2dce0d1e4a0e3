//! Boxes in rows, operands above users, no two on one another; lines between them that go around boxes.
//!
//! Sugiyama's steps, each in its simplest form: rows by the longest way, places for lines that pass a row, order by the mean
//! of the neighbours, and x as near to the neighbours as the order allows.

/// Distance of boxes in a row, and of rows.
const GAP: (f64, f64) = (16.0, 32.0);
/// Width that a line takes where it passes a row.
const LANE: f64 = 10.0;

/// Where everything is.
#[derive(Debug, Default)]
pub struct Layout {
    /// Upper left corner of each box.
    pub boxes: Vec<(f64, f64)>,
    /// Points of each edge, from the bottom of a box to the top of one further down.
    pub edges: Vec<Vec<(f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

/// A box or a line's place in a row.
struct Item {
    row: usize,
    /// A line's place.
    line: bool,
    width: f64,
    /// Centre.
    x: f64,
    up: Vec<usize>,
    down: Vec<usize>,
}

/// Places boxes of these sizes. An edge goes from an earlier box to a later one; others are left out.
pub fn layout(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Layout {
    let good = |&(a, b): &(usize, usize)| a < b && b < sizes.len();
    let kept: Vec<(usize, usize)> = edges.iter().copied().filter(good).collect();
    let mut items: Vec<Item> = rows(sizes.len(), &kept)
        .into_iter()
        .zip(sizes)
        .map(|(row, s)| Item { row, line: false, width: s.0, x: 0.0, up: vec![], down: vec![] })
        .collect();
    let ways: Vec<Vec<usize>> = kept.iter().map(|&e| way(&mut items, e)).collect();
    let mut rows = vec![vec![]; items.iter().map(|i| i.row + 1).max().unwrap_or(0)];
    for (i, item) in items.iter().enumerate() {
        rows[item.row].push(i);
    }
    order(&mut rows, &items);
    for pass in 0..80 {
        // Down, then up; at last from both sides.
        let sides = [(true, false), (false, true), (true, true)][if pass < 24 { pass % 2 } else { 2 }];
        for r in 0..rows.len() {
            place(&rows[if pass % 2 == 0 { r } else { rows.len() - 1 - r }], &mut items, sides);
        }
    }
    finish(sizes, &items, &rows, &ways)
}

/// The row of each box: below all operands. One without operands is right above its first user.
fn rows(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut rows = vec![0; count];
    let mut sorted = edges.to_vec();
    // All edges into a box come before those out of it.
    sorted.sort_unstable();
    for &(a, b) in &sorted {
        rows[b] = rows[b].max(rows[a] + 1);
    }
    for n in (0..count).filter(|n| edges.iter().all(|e| e.1 != *n)) {
        let first = edges.iter().filter(|e| e.0 == n).map(|e| rows[e.1]).min();
        rows[n] = first.map_or(0, |r| r - 1);
    }
    rows
}

/// The items along an edge, with new ones in the rows it passes.
fn way(items: &mut Vec<Item>, (a, b): (usize, usize)) -> Vec<usize> {
    let mut way = vec![a];
    for row in items[a].row + 1..items[b].row {
        way.push(items.len());
        items.push(Item { row, line: true, width: LANE, x: 0.0, up: vec![], down: vec![] });
    }
    way.push(b);
    for pair in way.windows(2) {
        items[pair[0]].down.push(pair[1]);
        items[pair[1]].up.push(pair[0]);
    }
    way
}

/// Orders rows so that few lines cross.
fn order(rows: &mut [Vec<usize>], items: &[Item]) {
    let mut at: Vec<f64> = vec![0.0; items.len()];
    for row in rows.iter() {
        row.iter().enumerate().for_each(|(i, &n)| at[n] = i as f64);
    }
    for pass in 0..12 {
        let down = pass % 2 == 0;
        for r in 0..rows.len() {
            let r = if down { r } else { rows.len() - 1 - r };
            let mean = |n: usize| {
                let near = if down { &items[n].up } else { &items[n].down };
                if near.is_empty() { at[n] } else { near.iter().map(|&m| at[m]).sum::<f64>() / near.len() as f64 }
            };
            let mut keyed: Vec<(f64, usize)> = rows[r].iter().map(|&n| (mean(n), n)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[r] = keyed.into_iter().map(|k| k.1).collect();
            rows[r].iter().enumerate().for_each(|(i, &n)| at[n] = i as f64);
        }
    }
}

/// Neighbours of a row that move as one.
struct Group {
    x: f64,
    weight: f64,
    count: usize,
}

/// Moves a row to where its neighbours are, as near as order and widths allow: the least sum of squares, found by joining
/// those that would overlap and moving them as one.
fn place(row: &[usize], items: &mut [Item], (up, down): (bool, bool)) {
    let (mut joined, mut offset): (Vec<Group>, f64) = (vec![], 0.0);
    let mut offsets = vec![];
    for (i, &n) in row.iter().enumerate() {
        if i > 0 {
            offset += (items[row[i - 1]].width + items[n].width) / 2.0 + GAP.0;
        }
        offsets.push(offset);
        let near = items[n].up.iter().filter(|_| up).chain(items[n].down.iter().filter(|_| down));
        // Long lines are to be straight, then lines of one way.
        let pull = |m: usize| match (items[n].line, items[m].line) {
            (true, true) => 8.0,
            (false, false) if items[n].up.len() <= 2 && items[m].down.len() <= 2 => 3.0,
            _ => 1.0,
        };
        let (sum, weight) = near.fold((0.0, 0.0), |(s, w), &m| (s + items[m].x * pull(m), w + pull(m)));
        let wish = if weight == 0.0 { items[n].x } else { sum / weight };
        let mut group = Group { x: wish - offset, weight: if weight == 0.0 { 0.1 } else { weight }, count: 1 };
        while let Some(last) = joined.pop_if(|l| l.x > group.x) {
            let weight = last.weight + group.weight;
            let x = (last.x * last.weight + group.x * group.weight) / weight;
            group = Group { x, weight, count: last.count + group.count };
        }
        joined.push(group);
    }
    let places = joined.iter().flat_map(|g| std::iter::repeat_n(g.x, g.count));
    for ((&n, x), offset) in row.iter().zip(places).zip(offsets) {
        items[n].x = x + offset;
    }
}

fn finish(sizes: &[(f64, f64)], items: &[Item], rows: &[Vec<usize>], ways: &[Vec<usize>]) -> Layout {
    let left = items.iter().map(|i| i.x - i.width / 2.0).fold(f64::INFINITY, f64::min);
    let right = items.iter().map(|i| i.x + i.width / 2.0).fold(left, f64::max);
    let (mut tops, mut heights, mut y) = (vec![], vec![], 0.0);
    for row in rows {
        let height = row.iter().filter_map(|&n| sizes.get(n)).map(|s| s.1).fold(0.0, f64::max);
        tops.push(y);
        heights.push(height);
        y += height + GAP.1;
    }
    // Boxes lie in the middle of their row.
    let top = |n: usize| tops[items[n].row] + (heights[items[n].row] - sizes[n].1) / 2.0;
    let x = |n: usize| items[n].x - left;
    let edge = |way: &Vec<usize>| {
        let (a, b) = (way[0], way[way.len() - 1]);
        let mut points = vec![(x(a), top(a) + sizes[a].1)];
        for &n in &way[1..way.len() - 1] {
            let row = items[n].row;
            points.extend([(x(n), tops[row]), (x(n), tops[row] + heights[row])]);
        }
        points.push((x(b) + port(items, way), top(b)));
        points
    };
    Layout {
        boxes: (0..sizes.len()).map(|n| (x(n) - sizes[n].0 / 2.0, top(n))).collect(),
        edges: ways.iter().map(edge).collect(),
        width: if items.is_empty() { 0.0 } else { right - left },
        height: (y - GAP.1).max(0.0),
    }
}

/// Where beside the middle of its user's top an edge ends: those from the left further left.
fn port(items: &[Item], way: &[usize]) -> f64 {
    let (last, b) = (way[way.len() - 2], &items[way[way.len() - 1]]);
    let mut from = b.up.clone();
    from.sort_by(|&m, &n| items[m].x.total_cmp(&items[n].x));
    let i = from.iter().position(|&n| n == last).unwrap_or(0);
    let step = (b.width * 0.6 / from.len().max(1) as f64).min(26.0);
    (i as f64 - (from.len() - 1) as f64 / 2.0) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Layout {
        let l = layout(sizes, edges);
        assert_eq!(l.boxes.len(), sizes.len());
        let inside = |&(x, y): &(f64, f64)| x >= -0.01 && y >= -0.01 && x <= l.width + 0.01 && y <= l.height + 0.01;
        for (i, (a, s)) in l.boxes.iter().zip(sizes).enumerate() {
            assert!(inside(a) && inside(&(a.0 + s.0, a.1 + s.1)), "{i}: {a:?} in {} x {}", l.width, l.height);
            for (b, t) in l.boxes.iter().zip(sizes).skip(i + 1) {
                let apart = a.0 + s.0 <= b.0 + 0.01 || b.0 + t.0 <= a.0 + 0.01;
                assert!(apart || a.1 + s.1 <= b.1 || b.1 + t.1 <= a.1, "{i}: {a:?} {b:?}");
            }
        }
        for points in &l.edges {
            assert!(points.windows(2).all(|w| w[0].1 <= w[1].1), "upwards: {points:?}");
            // The parts of a line within rows are straight; none of them is in a box.
            for w in points.windows(2).filter(|w| w[0].0 == w[1].0) {
                let middle = (w[0].0, (w[0].1 + w[1].1) / 2.0);
                let hit = l
                    .boxes
                    .iter()
                    .zip(sizes)
                    .any(|(b, s)| b.0 < middle.0 && middle.0 < b.0 + s.0 && b.1 < middle.1 && middle.1 < b.1 + s.1);
                assert!(!hit, "{points:?} goes through a box");
            }
        }
        l
    }

    #[test]
    fn a_chain_is_straight() {
        let l = check(&[(100.0, 20.0), (60.0, 30.0), (80.0, 20.0)], &[(0, 1), (1, 2)]);
        let middles: Vec<f64> = l.boxes.iter().zip([100.0, 60.0, 80.0]).map(|(b, w)| b.0 + w / 2.0).collect();
        assert!(middles.iter().all(|m| (m - 50.0).abs() < 0.1), "{middles:?}");
    }

    #[test]
    fn a_line_goes_around_what_is_between() {
        // A residual: 0 -> 1 -> 2 -> 3, and 0 -> 3.
        let l = check(&[(100.0, 20.0); 4], &[(0, 1), (1, 2), (2, 3), (0, 3)]);
        assert_eq!(l.edges[3].len(), 6);
        assert!(l.boxes.windows(2).all(|w| w[0].1 < w[1].1));
    }

    #[test]
    fn nothing_overlaps_in_random_graphs() {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for count in 1..24usize {
            let sizes: Vec<(f64, f64)> =
                (0..count).map(|_| (20.0 + next(200) as f64, 10.0 + next(50) as f64)).collect();
            let edge = |i: u64, n: &mut dyn FnMut(u64) -> u64| ((n(i)) as usize, i as usize);
            let edges: Vec<(usize, usize)> =
                (1..count as u64).flat_map(|i| [edge(i, &mut next), edge(i, &mut next)]).collect();
            check(&sizes, &edges);
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        assert!(layout(&[], &[]).boxes.is_empty());
        let l = check(&[(10.0, 10.0); 2], &[(0, 0), (1, 0), (0, 9), (0, 1)]);
        assert_eq!(l.edges.len(), 1);
        // A value without operands is near its user, not at the top.
        let l = check(&[(10.0, 10.0); 4], &[(0, 1), (1, 3), (2, 3)]);
        assert_eq!(l.boxes[2].1, l.boxes[1].1);
    }
}
