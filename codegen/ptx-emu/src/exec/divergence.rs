//! Lanes that went different ways. A warp is a set of groups, each with its own program counter. Where a branch splits a
//! group, a join is made at the branch's immediate post-dominator; a group that comes there waits for the others.
//!
//! Which group of a warp runs next is chance, and all of them get on: code may not rely on one order, and lanes that wait
//! for lanes of another group (which hardware since Volta allows) do not hang.

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    No,
    /// At a barrier of the CTA.
    Barrier(usize),
    /// At a `.sync` operation, for lanes that have not come.
    Members,
    /// At a `wgmma`, for the other warps of its group.
    WarpGroup,
    /// At `griddepcontrol.wait`.
    Grid,
}

/// Lanes that are at one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: usize,
    pub mask: u32,
    join: Option<usize>,
    pub block: Block,
}

#[derive(Clone, Copy, Debug)]
struct Join {
    pc: usize,
    expected: u32,
    arrived: u32,
    parent: Option<usize>,
}

/// All groups of a warp.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    pub groups: Vec<Group>,
    joins: Vec<Option<Join>>,
    /// Lanes that have not exited.
    pub live: u32,
}

impl Lanes {
    pub fn new(live: u32) -> Self {
        let all = Group { pc: 0, mask: live, join: None, block: Block::No };
        Self { groups: if live == 0 { Vec::new() } else { vec![all] }, joins: Vec::new(), live }
    }

    pub fn runnable(&self) -> bool {
        self.groups.iter().any(|g| g.block == Block::No)
    }

    /// Moves group `g` to `pc`. It may wait at a join there, or be all that the join waited for: then `g` is no longer valid.
    pub fn advance(&mut self, g: usize, pc: usize) {
        let mut group = self.groups[g];
        (group.pc, group.block) = (pc, Block::No);
        if self.at_join(&group).is_none() {
            self.groups[g] = group;
            return;
        }
        self.groups.swap_remove(g);
        self.settle(group);
    }

    fn at_join(&self, group: &Group) -> Option<usize> {
        group.join.filter(|&j| self.joins[j].is_some_and(|join| join.pc == group.pc))
    }

    /// Puts a group where it belongs: into its join, or among those that run.
    fn settle(&mut self, mut group: Group) {
        while let Some(j) = self.at_join(&group) {
            let Some(join) = self.joins[j].as_mut() else { break };
            join.arrived |= group.mask;
            if join.arrived != join.expected {
                return;
            }
            group = Group { pc: join.pc, mask: join.arrived, join: join.parent, block: Block::No };
            self.joins[j] = None;
        }
        self.groups.push(group);
    }

    /// Splits group `g`: `taken` goes to `target`, the rest to the next instruction.
    pub fn branch(&mut self, g: usize, taken: u32, target: usize, reconverge: usize) {
        let group = self.groups[g];
        let rest = group.mask & !taken;
        if rest == 0 || taken == 0 {
            return self.advance(g, if rest == 0 { target } else { group.pc + 1 });
        }
        let inside = group.join.and_then(|j| self.joins[j]).is_some_and(|j| j.pc == reconverge);
        let join = if inside {
            group.join
        } else {
            let new = Join { pc: reconverge, expected: group.mask, arrived: 0, parent: group.join };
            let free = self.joins.iter().position(Option::is_none).unwrap_or_else(|| {
                self.joins.push(None);
                self.joins.len() - 1
            });
            self.joins[free] = Some(new);
            Some(free)
        };
        self.groups.swap_remove(g);
        self.settle(Group { pc: target, mask: taken, join, block: Block::No });
        self.settle(Group { pc: group.pc + 1, mask: rest, join, block: Block::No });
    }

    /// Lanes of group `g` leave; the others go on.
    pub fn exit(&mut self, g: usize, lanes: u32) {
        let group = self.groups.swap_remove(g);
        self.live &= !lanes;
        self.joins.iter_mut().flatten().for_each(|j| j.expected &= !lanes);
        // Joins that waited only for these are complete. Inner ones first or not: a released group settles further out.
        for j in 0..self.joins.len() {
            let Some(join) = self.joins[j] else { continue };
            if join.expected == join.arrived {
                self.joins[j] = None;
                if join.arrived != 0 {
                    self.settle(Group { pc: join.pc, mask: join.arrived, join: join.parent, block: Block::No });
                }
            }
        }
        let mask = group.mask & !lanes;
        if mask != 0 {
            self.settle(Group { pc: group.pc + 1, mask, join: group.join, block: Block::No });
        }
    }
}
