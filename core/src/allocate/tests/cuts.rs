//! Partitions on one device, against trying everything: in every state that a GPU can
//! come into, `pack` begins a partition where the documentation says; and what that is
//! worth, in requests that are served.

use std::collections::{HashMap, HashSet};

use super::geometries::{A30, A100, Form, Geometry, H100, machine, slot_of};
use super::*;

/// A partition: the number of its profile, and where it begins.
type Piece = (usize, u32);
/// All partitions of a device, in order.
type State = Vec<Piece>;

impl Geometry {
    fn covers(&self, (profile, start): Piece) -> u64 {
        (0..self.profiles[profile].size).fold(0, |bits, i| bits | 1 << (start + i))
    }

    fn taken(&self, state: &[Piece]) -> u64 {
        state.iter().fold(0, |bits, p| bits | self.covers(*p))
    }

    fn slices_left(&self, state: &[Piece]) -> u64 {
        let used: u64 = state.iter().map(|p| self.profiles[p.0].slices).sum();
        self.slices - used
    }

    /// Where a partition may begin.
    fn legal(&self, state: &[Piece], profile: usize) -> Vec<u32> {
        if self.slices_left(state) < self.profiles[profile].slices {
            return vec![];
        }
        let taken = self.taken(state);
        let starts = self.profiles[profile].starts.iter().copied();
        let is_free = |start: &u32| self.covers((profile, *start)) & taken == 0;
        starts.filter(is_free).collect()
    }

    /// The most partitions of one profile that still fit, by trying all ways.
    fn most(&self, state: &State, profile: usize) -> u64 {
        let ways = self.legal(state, profile).into_iter().map(|start| {
            let mut more = state.clone();
            more.push((profile, start));
            1 + self.most(&more, profile)
        });
        ways.max().unwrap_or(0)
    }

    /// The objective: how many partitions of each profile alone still fit, summed.
    fn left(&self, state: &State) -> u64 {
        (0..self.profiles.len()).map(|p| self.most(state, p)).sum()
    }

    /// Every state that requests and releases, in whatever order and by whatever rule,
    /// can lead to: each legal set of partitions, for each can be made one by one.
    fn states(&self) -> Vec<State> {
        let mut known: HashSet<State> = HashSet::from([vec![]]);
        let mut new = vec![State::new()];
        while let Some(state) = new.pop() {
            for profile in 0..self.profiles.len() {
                for start in self.legal(&state, profile) {
                    let more = with(&state, (profile, start));
                    if known.insert(more.clone()) {
                        new.push(more);
                    }
                }
            }
        }
        let mut states: Vec<State> = known.into_iter().collect();
        states.sort();
        states
    }
}

fn with(state: &State, piece: Piece) -> State {
    let mut more = state.clone();
    more.push(piece);
    more.sort_unstable();
    more
}

/// One GPU, and what the allocator does with it.
struct Gpu {
    geometry: &'static Geometry,
    empty: Snapshot,
    asked: Vec<Choices>,
    known: HashMap<(State, usize), Option<u32>>,
}

impl Gpu {
    fn new(geometry: &'static Geometry) -> Self {
        let empty = Snapshot::new(&machine(&[Form::Uncut(geometry)]));
        let ask = |profile: &geometries::Kind| {
            let slot = slot_of(profile.name);
            resolve(&empty, &request(&[(&slot, "1")])).unwrap()
        };
        Self {
            geometry,
            asked: geometry.profiles.iter().map(ask).collect(),
            known: HashMap::new(),
            empty,
        }
    }

    /// Where the allocator begins a partition.
    fn start(&mut self, state: &State, profile: usize) -> Option<u32> {
        let (empty, geometry) = (&self.empty, self.geometry);
        let choices = &self.asked[profile];
        let decide = || {
            let mut snapshot = empty.clone();
            let held: Vec<Grant> = state
                .iter()
                .map(|&(profile, start)| Grant {
                    amount: Amount::ONE,
                    device: DeviceIx(0),
                    slot: empty
                        .slot(&slot_of(geometry.profiles[profile].name))
                        .unwrap(),
                    start: Some(start.try_into().unwrap()),
                })
                .collect();
            snapshot.take(&held);
            Some(allocate(&snapshot, choices)?.grants[0].start?.into())
        };
        let known = self.known.entry((state.clone(), profile));
        *known.or_insert_with(decide)
    }
}

#[test]
fn in_every_state_a_partition_begins_where_the_most_is_left() {
    for (geometry, count) in [(&A100, 723), (&H100, 723), (&A30, 26)] {
        let mut gpu = Gpu::new(geometry);
        let states = geometry.states();
        assert_eq!(states.len(), count, "{}", geometry.name);
        for state in &states {
            for profile in 0..geometry.profiles.len() {
                let legal = geometry.legal(state, profile);
                let best = legal.into_iter().max_by_key(|&start| {
                    let left = geometry.left(&with(state, (profile, start)));
                    (left, std::cmp::Reverse(start))
                });
                let name = geometry.profiles[profile].name;
                assert_eq!(
                    gpu.start(state, profile),
                    best,
                    "{name} on {}, of which {state:?} is taken",
                    geometry.name
                );
            }
        }
    }
}

#[test]
fn on_an_empty_gpu_the_large_ones_stay_possible() {
    for (geometry, starts) in [(&A100, &[6, 6, 4, 4, 0, 0][..]), (&A30, &[0, 0, 0])] {
        let mut gpu = Gpu::new(geometry);
        let profiles = 0..geometry.profiles.len();
        let got: Vec<u32> = profiles.filter_map(|p| gpu.start(&vec![], p)).collect();
        assert_eq!(got, starts, "{}", geometry.name);
    }
}

// === what it is worth ===

/// A request: its profile, and the step before which it ends.
#[derive(Clone, Copy)]
struct Asked {
    profile: usize,
    end: usize,
}

/// Numbers that look random and are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

/// Requests for profiles that are equally likely, one a step; each lasts so many steps in
/// the mean.
fn history(geometry: &Geometry, length: usize, mean: u64, dice: &mut Dice) -> Vec<Asked> {
    let ask = |step| Asked {
        profile: usize::try_from(dice.below(geometry.profiles.len() as u64)).unwrap(),
        end: step + 1 + (0..100).take_while(|_| dice.below(mean) != 0).count(),
    };
    (0..length).map(ask).collect()
}

/// How many requests are served, each where a rule says.
fn served(asked: &[Asked], mut start: impl FnMut(&State, usize) -> Option<u32>) -> u64 {
    let mut held: Vec<(usize, Piece)> = Vec::new();
    let mut served = 0;
    for (step, one) in asked.iter().enumerate() {
        held.retain(|(end, _)| *end > step);
        let mut state: State = held.iter().map(|(_, piece)| *piece).collect();
        state.sort_unstable();
        if let Some(start) = start(&state, one.profile) {
            held.push((one.end, (one.profile, start)));
            served += 1;
        }
    }
    served
}

/// Whoever knows what comes.
struct Clairvoyant<'a> {
    geometry: &'a Geometry,
    asked: &'a [Asked],
    /// May a request be refused that would fit, for the sake of others?
    refuses: bool,
    known: HashMap<(usize, Vec<(usize, Piece)>), u64>,
}

impl<'a> Clairvoyant<'a> {
    /// The most requests that can be served.
    fn best(geometry: &'a Geometry, asked: &'a [Asked], refuses: bool) -> u64 {
        let known = HashMap::new();
        let mut seer = Self {
            geometry,
            asked,
            refuses,
            known,
        };
        seer.from(0, &[])
    }

    fn from(&mut self, step: usize, held: &[(usize, Piece)]) -> u64 {
        let Some(one) = self.asked.get(step) else {
            return 0;
        };
        let mut held: Vec<(usize, Piece)> = held.iter().copied().filter(|h| h.0 > step).collect();
        held.sort_unstable();
        let key = (step, held.clone());
        if let Some(most) = self.known.get(&key) {
            return *most;
        }
        let state: State = held.iter().map(|(_, piece)| *piece).collect();
        let legal = self.geometry.legal(&state, one.profile);
        let mut most = 0;
        if self.refuses || legal.is_empty() {
            most = self.from(step + 1, &held);
        }
        for start in legal {
            held.push((one.end, (one.profile, start)));
            most = most.max(1 + self.from(step + 1, &held));
            held.pop();
        }
        self.known.insert(key, most);
        most
    }
}

/// The numbers of `docs/allocation.md`, in thousandths. To see them: `cargo test
/// what_pack_is_worth -- --nocapture`.
#[test]
fn what_pack_is_worth_against_first_fit_and_against_knowing_the_future() {
    // The H100's is the A100's geometry.
    for geometry in [&A100, &A30] {
        let mut gpu = Gpu::new(geometry);
        let first = |state: &State, profile| geometry.legal(state, profile).first().copied();
        for mean in [2, 4, 8] {
            let mut dice = Dice(mean);
            let long = history(geometry, 20_000, mean, &mut dice);
            let pack = served(&long, |s, p| gpu.start(s, p)) / 20;
            let first_fit = served(&long, first) / 20;
            let (mut short, mut placing, mut refusing, mut all) = (0, 0, 0, 0);
            for _ in 0..200 {
                let asked = history(geometry, 12, mean, &mut dice);
                all += asked.len() as u64;
                short += served(&asked, |s, p| gpu.start(s, p));
                placing += Clairvoyant::best(geometry, &asked, false);
                refusing += Clairvoyant::best(geometry, &asked, true);
            }
            let [short, placing, refusing] = [short, placing, refusing].map(|n| n * 1000 / all);
            println!(
                "{}, each for {mean} steps in the mean: of 20,000, pack {pack}, first fit {first_fit}; of 200 times 12, pack {short}, the best places {placing}, and refusing {refusing}",
                geometry.name,
            );
            assert!(pack >= first_fit, "{}: {pack} {first_fit}", geometry.name);
            assert!(
                short + 40 >= placing,
                "{}: {short} {placing}",
                geometry.name
            );
        }
    }
}
