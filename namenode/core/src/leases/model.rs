//! The table with clients around it that keep the rules, a network that delays, and clients that stall: whatever happens,
//! no two of them believe in leases that exclude each other, and nobody waits for longer than a term.

use super::*;
use crate::health::mix;
use LeaseMode::{Exclusive, Shared};
use proptest::prelude::*;
use std::collections::VecDeque;

const TERM: u64 = 5000;
const MARGIN: u64 = 250;
const INOS: u64 = 4;
const CLIENTS: usize = 4;
const BUDGET: usize = 12;

/// Draws numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// From a client.
#[derive(Clone, Debug)]
enum Up {
    Request { sent: u64, inos: Vec<(Ino, Access)>, wish: Option<LeaseMode> },
    RecallDone(u64),
    GiveBack { at: u64, ino: Ino },
}

/// To a client.
#[derive(Clone, Debug)]
enum Down {
    Answer {
        sent: u64,
        lease: Option<(Ino, LeaseMode)>,
    },
    Recall(Recall),
    /// The answer to a `RecallDone`.
    Settled(u64),
}

#[derive(Clone, Copy, Debug)]
struct Belief {
    mode: LeaseMode,
    /// Set by a recall.
    frozen: Option<u64>,
}

#[derive(Default)]
struct Client {
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    valid_until: u64,
    leases: BTreeMap<Ino, Belief>,
    /// Recalls not answered yet.
    recalls: VecDeque<Recall>,
    /// Answered ones whose answer the NameNode has not answered.
    unsettled: BTreeMap<u64, Ino>,
    /// When leases were given back.
    given_back: BTreeMap<Ino, u64>,
}

impl Client {
    fn holds(&self, now: u64, ino: Ino) -> Option<LeaseMode> {
        let belief = self.leases.get(&ino)?;
        (now < belief.frozen.unwrap_or(self.valid_until).min(self.valid_until)).then_some(belief.mode)
    }

    /// The first thing whenever it runs.
    fn notice_the_time(&mut self, now: u64) {
        if now >= self.valid_until {
            self.leases.clear();
        }
        self.leases.retain(|_, b| b.frozen.is_none_or(|at| now < at));
    }

    fn receive(&mut self, now: u64, message: Down) {
        self.notice_the_time(now);
        match message {
            Down::Answer { sent, lease } => {
                self.valid_until = self.valid_until.max(sent + TERM);
                let lease = lease.filter(|(ino, _)| self.given_back.get(ino).is_none_or(|at| *at < sent));
                if let Some((ino, mode)) = lease {
                    let belief = self.leases.entry(ino).or_insert(Belief { mode, frozen: None });
                    assert!(belief.frozen.is_none(), "granted under a recall");
                    belief.mode = belief.mode.max(mode);
                }
            }
            Down::Recall(recall) => {
                if let Some(belief) = self.leases.get_mut(&recall.ino) {
                    belief.frozen.get_or_insert(self.valid_until);
                }
                self.recalls.push_back(recall);
            }
            Down::Settled(number) => self.settle(number),
        }
    }

    /// Answers its oldest recall.
    fn answer_recall(&mut self, now: u64) {
        self.notice_the_time(now);
        let Some(recall) = self.recalls.pop_front() else { return };
        match (recall.keep, self.leases.get_mut(&recall.ino)) {
            (Some(keep), Some(belief)) => belief.mode = belief.mode.min(keep),
            (None, _) => {
                self.leases.remove(&recall.ino);
            }
            (Some(_), None) => {}
        }
        self.unsettled.insert(recall.number, recall.ino);
        self.up.push_back(Up::RecallDone(recall.number));
    }

    /// What it kept goes on, unless there is another recall.
    fn settle(&mut self, number: u64) {
        let ino = self.unsettled.remove(&number).expect("answered once");
        let again = self.recalls.iter().any(|r| r.ino == ino) || self.unsettled.values().any(|i| *i == ino);
        if let Some(belief) = self.leases.get_mut(&ino).filter(|_| !again) {
            belief.frozen = None;
        }
    }
}

struct Pending {
    client: usize,
    sent: u64,
    inos: Vec<(Ino, Access)>,
    wish: Option<LeaseMode>,
    since: u64,
}

struct World {
    now: u64,
    draw: Draw,
    table: LeaseTable,
    clients: Vec<Client>,
    waiting: BTreeMap<Ticket, Pending>,
    /// Going ahead.
    running: BTreeMap<Ticket, Pending>,
    answered: usize,
    granted: usize,
    recalled: usize,
    broken: usize,
}

fn session(client: usize) -> SessionId {
    SessionId(client as u64 + 1)
}

impl World {
    fn new(seed: u64) -> Self {
        let config = LeaseConfig { term_ms: TERM, margin_ms: MARGIN, budget: BUDGET };
        Self {
            now: 0,
            draw: Draw(seed),
            table: LeaseTable::new(config, 0, 1, []),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            answered: 0,
            granted: 0,
            recalled: 0,
            broken: 0,
        }
    }

    fn step(&mut self) {
        // Mostly quick, sometimes slow, so that terms run out.
        self.now += if self.draw.one_in(100) { self.draw.below(TERM) } else { self.draw.below(20) };
        self.check_beliefs();
        let actions = self.table.tick(self.now);
        self.act(actions);
        let client = self.draw.below(CLIENTS as u64) as usize;
        match self.draw.below(14) {
            0..=1 => self.send(client),
            2..=4 => self.deliver_up(client),
            5..=8 => self.deliver_down(client),
            9..=10 => self.clients[client].answer_recall(self.now),
            11..=12 => self.go_ahead(),
            _ if self.draw.one_in(50) => self.reconnect(client),
            _ => {}
        }
        self.check_beliefs();
        self.check_waiting();
    }

    fn send(&mut self, client: usize) {
        let count = 1 + self.draw.below(2);
        let inos = (0..count)
            .map(|_| {
                let access = if self.draw.one_in(3) { Access::Write } else { Access::Read };
                (Ino(self.draw.below(INOS)), access)
            })
            .collect();
        let wish = [None, Some(Shared), Some(Shared), Some(Exclusive)][self.draw.below(4) as usize];
        let ino = Ino(self.draw.below(INOS));
        let c = &mut self.clients[client];
        c.notice_the_time(self.now);
        if self.draw.one_in(10) && c.leases.get(&ino).is_some_and(|b| b.frozen.is_none()) {
            c.leases.remove(&ino);
            c.given_back.insert(ino, self.now);
            c.up.push_back(Up::GiveBack { at: self.now, ino });
        } else {
            c.up.push_back(Up::Request { sent: self.now, inos, wish });
        }
    }

    fn deliver_up(&mut self, client: usize) {
        let Some(message) = self.clients[client].up.pop_front() else { return };
        let actions = self.table.renew(self.now, session(client));
        self.act(actions);
        match message {
            Up::Request { sent, inos, wish } => {
                let result = self.table.acquire(self.now, session(client), &inos);
                let (ticket, actions) = result.expect("few tickets");
                self.waiting.insert(ticket, Pending { client, sent, inos, wish, since: self.now });
                self.act(actions);
            }
            Up::RecallDone(number) => {
                let (_, actions) = self.table.ack(session(client), number);
                self.act(actions);
                self.clients[client].down.push_back(Down::Settled(number));
            }
            Up::GiveBack { at, ino } => {
                let actions = self.table.give_back(session(client), &[ino]);
                self.act(actions);
                self.answer(client, at, None);
            }
        }
    }

    fn deliver_down(&mut self, client: usize) {
        if let Some(message) = self.clients[client].down.pop_front() {
            self.clients[client].receive(self.now, message);
        }
    }

    /// Some request that may go ahead is carried out.
    fn go_ahead(&mut self) {
        let Some((ticket, pending)) = self.running.pop_first() else { return };
        let mut lease = None;
        if let (Some(mode), Some((ino, _))) = (pending.wish, pending.inos.first()) {
            let (result, actions) = self.table.grant(self.now, session(pending.client), *ino, mode);
            lease = result.is_ok().then_some((*ino, mode));
            self.granted += usize::from(lease.is_some());
            self.act(actions);
        }
        self.table.done(ticket);
        self.answer(pending.client, pending.sent, lease);
        self.answered += 1;
    }

    fn answer(&mut self, client: usize, sent: u64, lease: Option<(Ino, LeaseMode)>) {
        self.clients[client].down.push_back(Down::Answer { sent, lease });
    }

    /// Everything under way is lost, and the client starts with an empty cache.
    fn reconnect(&mut self, client: usize) {
        let valid_until = self.clients[client].valid_until;
        self.clients[client] = Client { valid_until, ..Client::default() };
        for pending in [&mut self.waiting, &mut self.running] {
            let gone: Vec<_> = pending.iter().filter(|(_, p)| p.client == client).map(|(t, _)| *t).collect();
            for ticket in gone {
                pending.remove(&ticket);
                self.table.done(ticket);
            }
        }
        let actions = self.table.resume(self.now, session(client));
        self.act(actions);
    }

    fn act(&mut self, actions: Actions) {
        self.recalled += actions.recalls.len();
        self.broken += actions.broken.len();
        for recall in actions.recalls {
            let client = recall.session.0 as usize - 1;
            self.clients[client].down.push_back(Down::Recall(recall));
        }
        for ticket in actions.ready {
            let pending = self.waiting.remove(&ticket).expect("ready once");
            self.running.insert(ticket, pending);
        }
    }

    /// Clients' beliefs exclude each other nowhere, and nothing goes ahead against a belief.
    fn check_beliefs(&self) {
        for ino in (0..INOS).map(Ino) {
            let held: Vec<_> =
                (0..CLIENTS).filter_map(|c| self.clients[c].holds(self.now, ino).map(|m| (c, m))).collect();
            let exclusive = held.iter().any(|(_, mode)| *mode == Exclusive);
            assert!(!exclusive || held.len() == 1, "{ino}: {held:?}");
            for (ticket, pending) in &self.running {
                for (_, access) in pending.inos.iter().filter(|(i, _)| *i == ino) {
                    let against = held.iter().find(|(c, m)| *c != pending.client && conflicts(*access, *m));
                    assert!(against.is_none(), "{ticket:?} goes ahead on {ino} against {held:?}");
                }
            }
        }
    }

    fn check_waiting(&self) {
        for (ticket, pending) in &self.waiting {
            let end = pending.since + TERM + MARGIN;
            assert!(self.table.next_deadline().is_some_and(|at| at <= end), "{ticket:?} waits for too long");
        }
        assert!(self.table.len() <= BUDGET);
        assert_eq!(self.table.len(), (0..CLIENTS).map(|c| self.table.count(session(c))).sum::<usize>());
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..4_000 {
        world.step();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nobody_disagrees_and_nobody_waits_for_ever(seed in any::<u64>()) {
        run(seed);
    }
}

/// The histories are busy enough to mean something.
#[test]
fn much_happens_in_a_history() {
    let worlds: Vec<_> = (0..20).map(run).collect();
    let sum = |count: fn(&World) -> usize| worlds.iter().map(count).sum::<usize>();
    let counts = [sum(|w| w.answered), sum(|w| w.granted), sum(|w| w.recalled), sum(|w| w.broken)];
    assert!(counts.iter().zip([2000, 400, 200, 50]).all(|(have, want)| *have > want), "{counts:?}");
}
