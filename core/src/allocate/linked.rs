//! Best-connected sets: of the devices that are free, the `n` that are linked
//! best to each other.
//!
//! The objective, in this order: the greatest sum of link weights within the
//! set; then the least sum of its devices' weights to all free devices, which
//! for equal sets leaves the best-connected rest; then the first in order.
//!
//! Exact, by branch and bound, within a budget of steps that covers every set
//! of up to 8 of 16 devices and far more where links differ. Beyond the
//! budget, the best set found so far: never worse than the greedy one, which
//! joins to each device the best-linked others one by one.

/// Steps of one decision: sets of up to 8 of 16 are 39,203 of them.
pub(super) const BUDGET: u32 = 65_536;
/// Devices to begin greedy sets with, at most.
const SEEDS: usize = 64;
/// More devices than this are not searched, only joined greedily.
const MAX_SEARCHED: usize = 64;

/// Weights between the free devices, symmetric: the sum of both directions.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    weights: Vec<u32>,
    size: usize,
}

/// A set of devices, by their numbers in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) members: Vec<usize>,
    /// The sum of link weights within it.
    pub(super) inside: u64,
    /// The sum of its devices' weights to all free ones.
    pub(super) reach: u64,
    /// Is it proven to be the best?
    pub(super) exact: bool,
}

impl Set {
    fn better_than(&self, other: &Self) -> bool {
        (self.inside, std::cmp::Reverse(self.reach))
            > (other.inside, std::cmp::Reverse(other.reach))
    }
}

impl Graph {
    pub(super) fn new(size: usize) -> Self {
        Self {
            weights: vec![0; size * size],
            size,
        }
    }

    pub(super) fn link(&mut self, a: usize, b: usize, weight: u32) {
        for at in [a * self.size + b, b * self.size + a] {
            self.weights[at] = self.weights[at].saturating_add(weight);
        }
    }

    fn weight(&self, a: usize, b: usize) -> u32 {
        self.weights[a * self.size + b]
    }

    fn row(&self, a: usize) -> &[u32] {
        &self.weights[a * self.size..(a + 1) * self.size]
    }

    /// The best-connected set of `n`, where `reach` says of each device the sum
    /// of its weights to all free ones, here or not. With `complete`, each two
    /// of it are linked. `None` if there is no such set (of complete ones, none
    /// was found within the budget).
    pub(super) fn best(
        &self,
        n: usize,
        reach: &[u64],
        complete: bool,
        budget: &mut u32,
    ) -> Option<Set> {
        if n == 0 || n > self.size {
            return None;
        }
        if let Some(weight) = self.uniform() {
            // All sets are alike inside: what reaches least is left apart.
            let mut members: Vec<usize> = (0..self.size).collect();
            members.sort_by_key(|&m| (reach[m], m));
            members.truncate(n);
            members.sort_unstable();
            return (n == 1 || weight > 0 || !complete).then(|| self.set(members, reach, true));
        }
        let seeds = self.size.min(SEEDS);
        let greedy = (0..seeds)
            .filter_map(|seed| self.greedy(seed * self.size / seeds, n, complete))
            .map(|members| self.set(members, reach, false))
            .reduce(|a, b| if b.better_than(&a) { b } else { a });
        if self.size > MAX_SEARCHED {
            return greedy;
        }
        let mut search = Search {
            graph: self,
            reach,
            wanted: n,
            complete,
            heaviest: u64::from(self.weights.iter().copied().max().unwrap_or(0)),
            best: greedy,
            members: Vec::with_capacity(n),
            budget,
        };
        search.visit(0, 0, &vec![0; self.size]);
        let exact = *search.budget > 0;
        search.best.map(|set| Set { exact, ..set })
    }

    /// The weight of every pair, if they are all alike.
    fn uniform(&self) -> Option<u32> {
        let first = if self.size > 1 { self.weight(0, 1) } else { 0 };
        let alike = |a: usize| (0..self.size).all(|b| a == b || self.weight(a, b) == first);
        (0..self.size).all(alike).then_some(first)
    }

    fn greedy(&self, seed: usize, n: usize, complete: bool) -> Option<Vec<usize>> {
        let mut members = vec![seed];
        let mut joined: Vec<u64> = self.row(seed).iter().map(|&w| w.into()).collect();
        while members.len() < n {
            let free = (0..self.size).filter(|v| !members.contains(v));
            let fits =
                free.filter(|&v| !complete || members.iter().all(|&m| self.weight(m, v) > 0));
            let next = fits.max_by_key(|&v| (joined[v], std::cmp::Reverse(v)))?;
            for (sum, weight) in joined.iter_mut().zip(self.row(next)) {
                *sum += u64::from(*weight);
            }
            members.push(next);
        }
        members.sort_unstable();
        Some(members)
    }

    fn set(&self, members: Vec<usize>, reach: &[u64], exact: bool) -> Set {
        let pairs = members.iter().enumerate().flat_map(|(i, &a)| {
            members[i + 1..]
                .iter()
                .map(move |&b| u64::from(self.weight(a, b)))
        });
        Set {
            inside: pairs.sum(),
            reach: members.iter().map(|&m| reach[m]).sum(),
            members,
            exact,
        }
    }
}

/// A search through the sets in order.
struct Search<'a> {
    graph: &'a Graph,
    reach: &'a [u64],
    wanted: usize,
    complete: bool,
    heaviest: u64,
    best: Option<Set>,
    members: Vec<usize>,
    budget: &'a mut u32,
}

impl Search<'_> {
    /// Goes on with the devices from `from`; `joined` says of each what it
    /// would add to what is `inside`.
    fn visit(&mut self, from: usize, inside: u64, joined: &[u64]) {
        let missing = self.wanted - self.members.len();
        if missing == 0 {
            let found = Set {
                members: self.members.clone(),
                inside,
                reach: self.members.iter().map(|&m| self.reach[m]).sum(),
                exact: false,
            };
            // Sets come in order, but the greedy one stood first: of equals,
            // the first in order.
            let better = self.best.as_ref().is_none_or(|best| {
                let equal = found.inside == best.inside && found.reach == best.reach;
                found.better_than(best) || (equal && found.members < best.members)
            });
            if better {
                self.best = Some(found);
            }
            return;
        }
        for next in from..=self.graph.size - missing {
            if *self.budget == 0 {
                return;
            }
            *self.budget -= 1;
            let row = self.graph.row(next);
            if self.complete && self.members.iter().any(|&m| row[m] == 0) {
                continue;
            }
            let inside = inside + joined[next];
            let joined: Vec<u64> = joined
                .iter()
                .zip(row)
                .map(|(sum, w)| sum + u64::from(*w))
                .collect();
            if !self.hopeless(next + 1, missing - 1, inside, &joined) {
                self.members.push(next);
                self.visit(next + 1, inside, &joined);
                self.members.pop();
            }
        }
    }

    /// Can no set with `missing` more devices from here be as good as the best
    /// so far? The missing ones add at most what the best-joined of them add
    /// to the set, and the heaviest weight to each other.
    fn hopeless(&self, from: usize, missing: usize, inside: u64, joined: &[u64]) -> bool {
        let Some(best) = &self.best else {
            return false;
        };
        let mut rest: Vec<u64> = joined[from..].to_vec();
        if rest.len() < missing {
            return true;
        }
        rest.sort_unstable_by(|a, b| b.cmp(a));
        let joins: u64 = rest[..missing].iter().sum();
        let pairs = (missing * missing.saturating_sub(1) / 2) as u64;
        inside + joins + pairs * self.heaviest < best.inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Graph {
        fn reach(&self, v: usize) -> u64 {
            self.row(v).iter().map(|&w| u64::from(w)).sum()
        }
    }

    /// All sets, one by one.
    fn by_force(graph: &Graph, n: usize, reach: &[u64], complete: bool) -> Option<Set> {
        (0..1u32 << graph.size)
            .filter(|bits| bits.count_ones() as usize == n)
            .map(|bits| {
                (0..graph.size)
                    .filter(|i| bits >> i & 1 == 1)
                    .collect::<Vec<_>>()
            })
            .filter(|m| {
                let linked = |a: &usize| m.iter().all(|b| a == b || graph.weight(*a, *b) > 0);
                !complete || m.iter().all(linked)
            })
            .map(|members| graph.set(members, reach, true))
            .reduce(|a, b| {
                let equal = a.inside == b.inside && a.reach == b.reach;
                if b.better_than(&a) || (equal && b.members < a.members) {
                    b
                } else {
                    a
                }
            })
    }

    proptest! {
        #[test]
        fn the_best_set_is_what_trying_all_finds(
            size in 1usize..9,
            weights in prop::collection::vec(0u32..4, 36),
            reach in prop::collection::vec(0u64..3, 9),
            n in 1usize..6,
            complete in any::<bool>(),
        ) {
            let mut graph = Graph::new(size);
            let mut weights = weights.into_iter();
            for a in 0..size {
                for b in a + 1..size {
                    graph.link(a, b, weights.next().unwrap());
                }
            }
            let reach: Vec<u64> = (0..size).map(|v| graph.reach(v) + reach[v]).collect();
            let found = graph.best(n, &reach, complete, &mut BUDGET.clone());
            prop_assert_eq!(found, by_force(&graph, n, &reach, complete));
        }
    }

    #[test]
    fn eight_of_sixteen_are_found_within_the_budget() {
        // Two islands of eight, each linked by unlike weights: no symmetry to
        // lean on, many near-equal sets.
        let mut graph = Graph::new(16);
        for a in 0..16usize {
            for b in a + 1..16 {
                let island = if a / 8 == b / 8 { 50 } else { 0 };
                graph.link(a, b, island + u32::try_from((a * 7 + b * 13) % 5).unwrap());
            }
        }
        let mut budget = BUDGET;
        let reach: Vec<u64> = (0..16).map(|v| graph.reach(v)).collect();
        let set = graph.best(8, &reach, false, &mut budget).unwrap();
        assert!(set.exact && budget > 0);
        assert!(
            set.members.iter().all(|m| m / 8 == set.members[0] / 8),
            "{set:?}"
        );
    }
}
