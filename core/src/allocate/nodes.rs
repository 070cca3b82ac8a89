//! Sets of NUMA nodes, from near to far: where a request is tried, in this
//! order.
//!
//! On machines of up to [`FEW`] nodes, every set. On larger ones every node,
//! then pairs, then around each node the nearest ones in doubling numbers: a
//! stated bound on the work, not on what is found, since every node at once is
//! tried last.

use super::machine::NodeIx;

/// Up to so many nodes, every set is tried.
const FEW: usize = 8;
/// Pairs that are tried on larger machines, at most.
const MAX_PAIRS: usize = 128;
/// Nodes around which larger sets are tried there, at most.
const MAX_HOMES: usize = 16;

/// Sets that cost the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The sum of distances between its nodes, both ways, and to themselves.
    pub(super) span: u32,
    /// The sets, in order.
    pub(super) sets: Vec<Vec<NodeIx>>,
}

/// The sets to try, in groups of equal size and span, the smallest and nearest
/// first. The first group is the single nodes.
pub(super) fn node_sets(distances: &[Vec<u32>]) -> Vec<Group> {
    let nodes = distances.len();
    let all = || (0..nodes).filter_map(|n| NodeIx::try_from(n).ok());
    let mut sets: Vec<Vec<NodeIx>> = all().map(|n| vec![n]).collect();
    if nodes <= FEW {
        let more = (1u32..1 << nodes).filter(|bits| bits.count_ones() > 1);
        sets.extend(more.map(|bits| all().filter(|n| bits >> n & 1 == 1).collect()));
    } else {
        let pairs = all().flat_map(|a| all().filter(move |b| *b > a).map(move |b| vec![a, b]));
        sets.extend(pairs.take(MAX_PAIRS));
        for home in all().take(MAX_HOMES) {
            let mut near: Vec<NodeIx> = all().collect();
            near.sort_by_key(|&n| (distances[usize::from(home)][usize::from(n)], n));
            let sizes = (2..).map(|power| 1usize << power);
            for size in sizes.take_while(|size| *size < nodes) {
                let mut set = near[..size].to_vec();
                set.sort_unstable();
                sets.push(set);
            }
        }
    }
    let distance = |a: NodeIx, b: NodeIx| distances[usize::from(a)][usize::from(b)];
    let span = |set: &[NodeIx]| -> u32 {
        // A node is as near to itself as any other is to itself.
        let pairs = set.iter().flat_map(|&a| set.iter().map(move |&b| (a, b)));
        pairs
            .filter(|(a, b)| a != b)
            .map(|(a, b)| distance(a, b))
            .sum()
    };
    let mut costed: Vec<((usize, u32), Vec<NodeIx>)> = sets
        .into_iter()
        .map(|set| ((set.len(), span(&set)), set))
        .collect();
    costed.sort();
    costed.dedup();
    costed
        .chunk_by(|a, b| a.0 == b.0)
        .map(|chunk| Group {
            span: chunk[0].0.1,
            sets: chunk.iter().map(|(_, set)| set.clone()).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_nodes_then_near_pairs_then_far_ones() {
        let distances = [[10, 20, 40], [20, 10, 40], [40, 40, 10]].map(Vec::from);
        let sets: Vec<(u32, Vec<Vec<NodeIx>>)> = node_sets(&distances)
            .into_iter()
            .map(|g| (g.span, g.sets))
            .collect();
        assert_eq!(
            sets,
            [
                (0, vec![vec![0], vec![1], vec![2]]),
                (40, vec![vec![0, 1]]),
                (80, vec![vec![0, 2], vec![1, 2]]),
                (200, vec![vec![0, 1, 2]]),
            ]
        );
    }

    #[test]
    fn large_machines_have_few_sets() {
        let distances = vec![vec![20; 200]; 200];
        let sets: usize = node_sets(&distances).iter().map(|g| g.sets.len()).sum();
        assert!(sets <= 200 + MAX_PAIRS + MAX_HOMES * 8, "{sets}");
    }
}
