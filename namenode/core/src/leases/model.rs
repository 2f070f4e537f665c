//! The table with clients around it that keep the rules, a network that delays, clients that stall, clocks that run at
//! different rates, and a NameNode that restarts. Whatever happens:
//! - no two clients whose clocks are within the margin believe in leases that exclude each other;
//! - what a client buffered under a lease is accepted only if no other session was let past that lease, also from a
//!   client whose clock stands still or jumps;
//! - no request waits for longer than a recall may take.

mod draw;
mod durable;

use super::*;
use LeaseMode::{Exclusive, Shared};
use draw::Draw;
use durable::Fences;
use proptest::prelude::*;
use quarry_common::wire::session::{LeaseId, Losses};
use std::collections::VecDeque;

const TERM: u64 = 5000;
const MARGIN: u64 = 250;
const RECALL: u64 = 12_000;
const INOS: u64 = 4;
const CLIENTS: usize = 4;
const BUDGET: usize = 12;
/// The client whose clock obeys no rule.
const BROKEN_CLOCK: usize = 3;

/// From a client.
#[derive(Clone, Debug)]
enum Up {
    Request { sent: u64, inos: Vec<(Ino, Access)>, wish: Option<LeaseMode> },
    Commit(LeaseId),
    RecallDone(u64),
    GiveBack { at: u64, ino: Ino },
    Renew { sent: u64, acknowledged: u64 },
}

/// To a client.
#[derive(Clone, Debug)]
enum Down {
    Answer {
        sent: u64,
        lease: Option<LeaseGrant>,
    },
    Recall(Recall),
    /// The answer to a `RecallDone`.
    Settled(u64),
    Lost(Losses),
    /// The answer to a resumption: the recalls that are still outstanding came before it.
    Resumed,
}

#[derive(Clone, Copy, Debug)]
struct Belief {
    mode: LeaseMode,
    generation: LeaseGeneration,
    /// Set by a recall.
    frozen: Option<u64>,
}

#[derive(Default)]
struct Client {
    connected: bool,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    /// By its own clock, as all its times.
    valid_until: u64,
    leases: BTreeMap<Ino, Belief>,
    buffered: BTreeMap<Ino, LeaseGeneration>,
    /// Recalls not answered yet.
    recalls: VecDeque<Recall>,
    /// Answered ones whose answer the NameNode has not answered.
    unsettled: BTreeMap<u64, Ino>,
    /// When leases were given back.
    given_back: BTreeMap<Ino, u64>,
    losses: u64,
    /// Real milliseconds, and what the clock shows then; thousandths of a millisecond that it advances for each.
    clock: (u64, u64, u64),
    stopped_until: u64,
}

impl Client {
    fn clock(&self, now: u64) -> u64 {
        let (since, showed, rate) = self.clock;
        showed + (now - since) * rate / 1000
    }

    fn set_clock(&mut self, now: u64, rate: u64) {
        self.clock = (now, self.clock(now), rate);
    }

    fn holds(&self, time: u64, ino: Ino) -> Option<Belief> {
        let belief = self.leases.get(&ino)?;
        (time < belief.frozen.unwrap_or(self.valid_until).min(self.valid_until)).then_some(*belief)
    }

    /// The first thing whenever it runs. Exclusive leases that lapsed stay, and are not used.
    fn notice_the_time(&mut self, time: u64) {
        let lapsed = time >= self.valid_until;
        self.leases.retain(|_, b| (!lapsed || b.mode == Exclusive) && b.frozen.is_none_or(|at| time < at));
    }

    fn receive(&mut self, time: u64, message: Down) {
        self.notice_the_time(time);
        match message {
            Down::Answer { sent, lease } => {
                self.valid_until = self.valid_until.max(sent + TERM);
                let lease = lease.filter(|l| self.given_back.get(&l.ino).is_none_or(|at| *at < sent));
                if let Some(LeaseGrant { ino, mode, generation }) = lease {
                    let new = Belief { mode, generation, frozen: None };
                    let before = self.leases.insert(ino, new);
                    assert!(before.is_none_or(|b| b.frozen.is_none()), "granted under a recall");
                }
            }
            Down::Recall(recall) => {
                if let Some(belief) = self.leases.get_mut(&recall.ino) {
                    belief.frozen.get_or_insert(self.valid_until);
                }
                self.recalls.push_back(recall);
            }
            Down::Settled(number) => self.settle(number),
            Down::Resumed => {
                let recalled = |ino: &Ino| {
                    self.recalls.iter().any(|recall| recall.ino == *ino)
                        || self.unsettled.values().any(|answered| answered == ino)
                };
                for (_, belief) in self.leases.iter_mut().filter(|(ino, _)| !recalled(ino)) {
                    belief.frozen = None;
                }
            }
            Down::Lost(losses) => {
                let is_lost = |ino: Ino, generation: LeaseGeneration, mode: LeaseMode| {
                    let below = if mode == Exclusive { losses.below } else { losses.shared_below };
                    generation < below || losses.leases.contains(&LeaseId { ino, generation })
                };
                self.leases.retain(|ino, b| !is_lost(*ino, b.generation, b.mode));
                self.buffered.retain(|ino, generation| !is_lost(*ino, *generation, Exclusive));
                self.losses = losses.number;
            }
        }
    }

    /// Sends what it buffered of an inode.
    fn commit(&mut self, ino: Ino) {
        if let Some(generation) = self.buffered.remove(&ino) {
            self.up.push_back(Up::Commit(LeaseId { ino, generation }));
        }
    }

    /// Answers its oldest recall.
    fn answer_recall(&mut self, time: u64) {
        self.notice_the_time(time);
        let Some(recall) = self.recalls.pop_front() else { return };
        self.commit(recall.ino);
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

    /// Everything under way is lost. What it reclaims when it resumes: all under which it buffered, then other exclusive
    /// leases.
    fn disconnect(&mut self) -> Vec<LeaseId> {
        self.up.clear();
        self.down.clear();
        self.recalls.clear();
        self.unsettled.clear();
        self.given_back.clear();
        // Numbers of losses begin anew with a run of the NameNode.
        self.losses = 0;
        self.leases.retain(|_, belief| belief.mode == Exclusive);
        let mut reclaims: BTreeMap<_, _> = self.leases.iter().map(|(ino, b)| (*ino, b.generation)).collect();
        reclaims.extend(&self.buffered);
        reclaims.into_iter().map(|(ino, generation)| LeaseId { ino, generation }).collect()
    }
}

struct Pending {
    client: usize,
    sent: u64,
    inos: Vec<(Ino, Access)>,
    wish: Option<LeaseMode>,
    since: u64,
}

#[derive(Debug, Default)]
struct Counts {
    answered: usize,
    granted: usize,
    recalled: usize,
    broken: usize,
    committed: usize,
    refused: usize,
    reclaimed: usize,
}

struct World {
    now: u64,
    draw: Draw,
    run: u64,
    table: LeaseTable,
    fences: Fences,
    /// Fences on their way through the log.
    fencing: VecDeque<(SessionId, Fence)>,
    clients: Vec<Client>,
    waiting: BTreeMap<Ticket, Pending>,
    /// Going ahead.
    running: BTreeMap<Ticket, Pending>,
    /// The newest lease of an inode when another session was let past it.
    let_past: BTreeMap<(Ino, SessionId), LeaseGeneration>,
    counts: Counts,
}

fn session(client: usize) -> SessionId {
    SessionId(client as u64 + 1)
}

fn config() -> LeaseConfig {
    LeaseConfig { term_ms: TERM, margin_ms: MARGIN, recall_max_ms: RECALL, budget: BUDGET }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed);
        let mut client = || Client {
            connected: true,
            clock: (0, draw.below(1 << 30), 985 + draw.below(31)),
            ..Client::default()
        };
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
        for client in &mut clients {
            client.valid_until = client.clock(0);
        }
        Self {
            now: 0,
            draw,
            run: 1,
            table: LeaseTable::new(config(), 0, 1, []),
            fences: Fences::default(),
            fencing: VecDeque::new(),
            clients,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            let_past: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    fn step(&mut self) {
        // Mostly quick, sometimes slow, so that terms run out.
        self.now += if self.draw.one_in(100) { self.draw.below(TERM) } else { self.draw.below(20) };
        self.check_beliefs();
        let actions = self.table.tick(self.now);
        self.act(actions);
        if self.draw.one_in(3) {
            self.make_durable();
        }
        let client = self.draw.below(CLIENTS as u64) as usize;
        match self.draw.below(200) {
            0 if self.draw.one_in(4) => self.restart(),
            1 => self.clients[client].stopped_until = self.now + self.draw.below(4 * TERM),
            2 => {
                // Its clock stands still for a while, or runs on as if nothing had been.
                let rate = if self.draw.one_in(2) { 0 } else { 1000 };
                self.clients[BROKEN_CLOCK].set_clock(self.now, rate);
            }
            3..=5 => self.reconnect(client, false),
            n => self.ordinary(client, n % 16),
        }
        self.check_beliefs();
        self.check_waiting();
    }

    fn ordinary(&mut self, client: usize, choice: u64) {
        if choice == 0 {
            return self.go_ahead();
        }
        if self.now < self.clients[client].stopped_until {
            return;
        }
        if !self.clients[client].connected {
            return self.reconnect(client, true);
        }
        let time = self.clients[client].clock(self.now);
        match choice {
            1..=2 => self.send(client),
            3..=5 => self.deliver_up(client),
            6..=9 => self.deliver_down(client),
            10..=11 => self.clients[client].answer_recall(time),
            12..=13 => self.write(client),
            14 => {
                let ino = Ino(self.draw.below(INOS));
                self.clients[client].commit(ino);
            }
            _ => self.go_ahead(),
        }
    }

    /// Programs write: buffered where the client believes that it may.
    fn write(&mut self, client: usize) {
        let c = &mut self.clients[client];
        let time = c.clock(self.now);
        c.notice_the_time(time);
        for ino in (0..INOS).map(Ino) {
            if let Some(belief) = c.holds(time, ino).filter(|b| b.mode == Exclusive && b.frozen.is_none()) {
                // What is buffered already keeps the generation under which its call returned.
                c.buffered.entry(ino).or_insert(belief.generation);
            }
        }
    }

    fn send(&mut self, client: usize) {
        let count = 1 + self.draw.below(2);
        let inos = (0..count)
            .map(|_| {
                let access = if self.draw.one_in(3) { Access::Write } else { Access::Read };
                (Ino(self.draw.below(INOS)), access)
            })
            .collect();
        let wish = [None, Some(Shared), Some(Exclusive), Some(Exclusive)][self.draw.below(4) as usize];
        let ino = Ino(self.draw.below(INOS));
        let (give_back, renew) = (self.draw.one_in(10), self.draw.one_in(4));
        let c = &mut self.clients[client];
        let sent = c.clock(self.now);
        c.notice_the_time(sent);
        if give_back && c.leases.get(&ino).is_some_and(|b| b.frozen.is_none()) {
            c.commit(ino);
            c.leases.remove(&ino);
            c.given_back.insert(ino, sent);
            c.up.push_back(Up::GiveBack { at: sent, ino });
        } else if renew {
            c.up.push_back(Up::Renew { sent, acknowledged: c.losses });
        } else {
            c.up.push_back(Up::Request { sent, inos, wish });
        }
    }

    fn deliver_up(&mut self, client: usize) {
        let Some(message) = self.clients[client].up.pop_front() else { return };
        self.table.renew(self.now, session(client));
        match message {
            Up::Request { sent, inos, wish } => {
                let result = self.table.acquire(self.now, session(client), &inos);
                let (ticket, actions) = result.expect("few tickets");
                self.waiting.insert(ticket, Pending { client, sent, inos, wish, since: self.now });
                self.act(actions);
            }
            Up::Commit(lease) => self.committed(client, lease),
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
            Up::Renew { sent, acknowledged } => {
                for lease in self.table.acknowledge(session(client), acknowledged) {
                    let key = (session(client), lease.ino);
                    // One whose fence is still on its way stays until the session ends.
                    if self.fences.leases.get(&key) == Some(&lease.generation) {
                        self.fences.leases.remove(&key);
                    }
                }
                self.answer(client, sent, None);
            }
        }
    }

    /// The state machine gets what was buffered under a lease.
    fn committed(&mut self, client: usize, lease: LeaseId) {
        self.table.progress(self.now, session(client), lease.ino);
        if self.fences.is_broken(session(client), lease) {
            self.counts.refused += 1;
            return;
        }
        let past = self.let_past.get(&(lease.ino, session(client)));
        assert!(
            past.is_none_or(|newest| *newest < lease.generation),
            "{lease:?} of {client} is accepted after others were let past {past:?}"
        );
        self.counts.committed += 1;
    }

    fn deliver_down(&mut self, client: usize) {
        let c = &mut self.clients[client];
        if let Some(message) = c.down.pop_front() {
            c.receive(c.clock(self.now), message);
        }
    }

    /// Some request that may go ahead is carried out.
    fn go_ahead(&mut self) {
        let Some((ticket, pending)) = self.running.pop_first() else { return };
        self.let_past(&pending);
        let mut lease = None;
        if let (Some(mode), Some((ino, _))) = (pending.wish, pending.inos.first()) {
            let (result, actions) = self.table.grant(self.now, session(pending.client), *ino, mode);
            lease = result.ok();
            self.counts.granted += usize::from(lease.is_some());
            self.act(actions);
        }
        self.table.done(ticket);
        self.answer(pending.client, pending.sent, lease);
        self.counts.answered += 1;
    }

    /// A request has seen or changed its inodes.
    fn let_past(&mut self, pending: &Pending) {
        let newest = self.table.generation;
        for (ino, _) in &pending.inos {
            for other in (0..CLIENTS).filter(|other| *other != pending.client) {
                self.let_past.insert((*ino, session(other)), newest);
            }
        }
    }

    fn answer(&mut self, client: usize, sent: u64, lease: Option<LeaseGrant>) {
        self.clients[client].down.push_back(Down::Answer { sent, lease });
    }

    /// The next fence comes out of the log.
    fn make_durable(&mut self) {
        let Some((session, fence)) = self.fencing.pop_front() else { return };
        self.fences.add(session, fence);
        let actions = self.table.fenced(session, fence);
        self.act(actions);
    }

    /// A client resumes its session on a new connection.
    fn reconnect(&mut self, client: usize, only_if_lost: bool) {
        if self.now < self.clients[client].stopped_until || (only_if_lost && self.clients[client].connected) {
            return;
        }
        for pending in [&mut self.waiting, &mut self.running] {
            let gone: Vec<_> = pending.iter().filter(|(_, p)| p.client == client).map(|(t, _)| *t).collect();
            for ticket in gone {
                pending.remove(&ticket);
                self.table.done(ticket);
            }
        }
        let own = session(client);
        let c = &mut self.clients[client];
        let sent = c.clock(self.now);
        c.notice_the_time(sent);
        c.connected = true;
        let reclaims = c.disconnect();
        let known = (self.fences.of(own), self.fences.floor(own));
        let actions = self.table.resume(self.now, own, &reclaims, (&known.0, known.1));
        self.act(actions);
        let losses = self.table.losses(own);
        let lost = |l: &LeaseId| losses.leases.contains(l) || l.generation < losses.below;
        self.counts.reclaimed += reclaims.iter().filter(|lease| !lost(lease)).count();
        self.clients[client].down.extend([Down::Lost(losses), Down::Resumed]);
        self.answer(client, sent, None);
    }

    /// The NameNode begins anew, with what is durable.
    fn restart(&mut self) {
        self.run += 1;
        self.table = LeaseTable::new(config(), self.now, self.run, (0..CLIENTS).map(session));
        self.fencing.clear();
        self.waiting.clear();
        self.running.clear();
        for client in &mut self.clients {
            client.connected = false;
        }
    }

    fn act(&mut self, actions: Actions) {
        self.counts.recalled += actions.recalls.len();
        self.counts.broken += actions.broken.len();
        for session in actions.losers {
            let losses = self.table.losses(session);
            let client = &mut self.clients[session.0 as usize - 1];
            if client.connected {
                client.down.push_back(Down::Lost(losses));
            }
        }
        for recall in actions.recalls {
            let client = &mut self.clients[recall.session.0 as usize - 1];
            if client.connected {
                client.down.push_back(Down::Recall(recall));
            }
        }
        self.fencing.extend(actions.fences);
        for ticket in actions.ready {
            let pending = self.waiting.remove(&ticket).expect("ready once");
            self.let_past(&pending);
            self.running.insert(ticket, pending);
        }
    }

    /// Beliefs exclude each other nowhere, and nothing goes ahead against a belief, as long as clocks are sound.
    fn check_beliefs(&self) {
        for ino in (0..INOS).map(Ino) {
            let belief = |c: usize| self.clients[c].holds(self.clients[c].clock(self.now), ino);
            let held: Vec<_> = (0..BROKEN_CLOCK).filter_map(|c| belief(c).map(|b| (c, b.mode))).collect();
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
            let end = pending.since + RECALL + MARGIN;
            let deadline = self.table.next_deadline().is_some_and(|at| at <= end);
            assert!(deadline || !self.fencing.is_empty(), "{ticket:?} waits for too long");
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
    let sum = |count: fn(&Counts) -> usize| worlds.iter().map(|w| count(&w.counts)).sum::<usize>();
    let counts = [
        sum(|c| c.answered),
        sum(|c| c.granted),
        sum(|c| c.recalled),
        sum(|c| c.broken),
        sum(|c| c.committed),
        sum(|c| c.refused),
        sum(|c| c.reclaimed),
    ];
    let enough = [2000, 300, 200, 50, 50, 5, 20];
    assert!(counts.iter().zip(enough).all(|(have, want)| *have > want), "{counts:?}");
}
