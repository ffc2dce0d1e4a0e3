//! Where diverged lanes meet again: the immediate post-dominator of each branch.

use crate::ops::{Inst, Op};

/// Instructions that may follow `pc`; the end of the code stands for every exit.
fn successors(code: &[Inst], pc: usize) -> impl Iterator<Item = usize> {
    let end = code.len();
    let guarded = code[pc].guard.is_some();
    let (next, jump) = match code[pc].op {
        Op::Branch { target, .. } => (guarded.then_some(pc + 1), Some(target)),
        Op::Exit | Op::Trap => (guarded.then_some(pc + 1), Some(end)),
        _ => (Some(pc + 1), None),
    };
    next.into_iter().chain(jump)
}

/// The nearest common ancestor in the tree of post-dominators found so far; deeper nodes have lower positions.
fn meet(tree: &[usize], order: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while order[a] < order[b] {
            a = tree[a];
        }
        while order[b] < order[a] {
            b = tree[b];
        }
    }
    a
}

/// Positions in a postorder walk from the exit over reversed edges: the exit has the highest.
fn postorder(code: &[Inst]) -> (Vec<usize>, Vec<usize>) {
    const UNSEEN: usize = usize::MAX;
    let end = code.len();
    let mut before = vec![Vec::new(); end + 1];
    for pc in 0..end {
        successors(code, pc).for_each(|s| before[s].push(pc));
    }
    let (mut order, mut list, mut stack) = (vec![UNSEEN; end + 1], Vec::new(), vec![(end, 0)]);
    let mut seen = vec![false; end + 1];
    seen[end] = true;
    while let Some((node, i)) = stack.pop() {
        if let Some(&p) = before[node].get(i) {
            stack.push((node, i + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            order[node] = list.len();
            list.push(node);
        }
    }
    (order, list)
}

/// Writes into each branch where its two ways meet. Code from which no exit can be reached meets at the end.
pub(crate) fn with_reconvergence(mut code: Vec<Inst>) -> Vec<Inst> {
    const NONE: usize = usize::MAX;
    let end = code.len();
    let (order, list) = postorder(&code);
    let mut tree = vec![NONE; end + 1];
    tree[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &node in list.iter().rev().skip(1) {
            let ways = successors(&code, node).filter(|&s| tree[s] != NONE);
            let found = ways.reduce(|a, b| meet(&tree, &order, a, b)).unwrap_or(NONE);
            changed |= found != tree[node];
            tree[node] = found;
        }
    }
    for (pc, inst) in code.iter_mut().enumerate() {
        if let Op::Branch { reconverge, .. } = &mut inst.op {
            *reconverge = if tree[pc] == NONE { end } else { tree[pc] };
        }
    }
    code
}
