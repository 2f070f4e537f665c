//! How it looks.

use super::Shown;
use crate::output::{bytes, duration_ms, printable};
use quarry_common::wire::cluster::{NodeState, NodeStatus};
use quarry_host::trace::Operation;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};

/// Characters of text of others in a cell.
const CELL: usize = 40;

pub(super) fn draw(frame: &mut Frame<'_>, shown: &Shown) {
    let s = &shown.status;
    let nodes = s.nodes.len() as u16 + 3;
    let areas = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(nodes.min(frame.area().height / 2)),
        Constraint::Length(5),
        Constraint::Length(s.slowest.len().max(1) as u16 + 3),
        Constraint::Min(3),
    ])
    .split(frame.area());
    frame.render_widget(head(shown), areas[0]);
    frame.render_widget(table_of_nodes(shown), areas[1]);
    let width = usize::from(areas[2].width.saturating_sub(2));
    let newest = shown.rates.line.iter().rev().take(width).rev().copied();
    let line = Sparkline::default().data(newest).style(Style::new().fg(Color::Cyan));
    frame.render_widget(line.block(Block::bordered().title("Requests per second")), areas[2]);
    frame.render_widget(table_of_slow(shown), areas[3]);
    frame.render_widget(table_of_sessions(shown), areas[4]);
}

fn head(shown: &Shown) -> Paragraph<'_> {
    let (s, r) = (&shown.status, &shown.rates);
    let first = match shown.away {
        Some(since) => {
            let away = duration_ms(since.elapsed().as_millis() as u64);
            Line::from(format!("The NameNode has not answered for {away}")).red().bold()
        }
        None => Line::from(format!(
            "Cluster {}: NameNode {}, up {}, {} of memory, {} changes since the last checkpoint",
            s.cluster,
            s.namenode,
            duration_ms(s.uptime_s * 1000),
            bytes(s.memory_bytes),
            s.unsaved
        ))
        .bold(),
    };
    let groups = format!(
        "Placement groups: {} healthy, {} degraded, {} healing",
        s.groups_healthy, s.groups_degraded, s.groups_healing
    );
    let groups = Line::from(groups);
    let groups = if s.groups_degraded + s.groups_healing > 0 { groups.yellow() } else { groups };
    let rates = format!(
        "{:.0} requests/s, {:.0} operations/s, {} files, {}",
        r.requests,
        r.operations,
        s.files,
        bytes(s.bytes)
    );
    Paragraph::new(Text::from(vec![first, groups, Line::from(rates), Line::from("q ends this").dim()]))
}

fn table_of_nodes(shown: &Shown) -> Table<'_> {
    let head = Row::new([
        "NODE",
        "STATE",
        "HEARTBEAT",
        "READ/S",
        "WRITTEN/S",
        "USED",
        "CAPACITY",
        "LATENCY",
        "NOTE",
    ])
    .bold();
    let rows = shown.status.nodes.iter().map(|n| node_row(shown, n));
    let widths =
        [6, 9, 11, 11, 11, 7, 10, 9].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    Table::new(rows, widths).header(head).block(Block::bordered().title("DataNodes"))
}

fn node_row<'a>(shown: &Shown, n: &NodeStatus) -> Row<'a> {
    let (read, written) = shown.rates.of(n.node.id);
    let used = if n.capacity == 0 { 0.0 } else { 100.0 * (1.0 - n.free as f64 / n.capacity as f64) };
    let latency = n.disks.iter().map(|d| d.latency_us).max().unwrap_or(0);
    let row = Row::new([
        n.node.id.to_string(),
        n.node.state.word().to_owned(),
        n.heartbeat_age_ms.map_or_else(|| "none yet".to_owned(), duration_ms),
        bytes(read as u64),
        bytes(written as u64),
        format!("{used:.0} %"),
        bytes(n.capacity),
        format!("{:.1} ms", latency as f64 / 1000.0),
        cut(&n.trouble),
    ]);
    match n.node.state {
        NodeState::Healthy => row,
        NodeState::Suspect | NodeState::Full => row.yellow(),
        NodeState::Dead | NodeState::Failing => row.red(),
    }
}

fn table_of_slow(shown: &Shown) -> Table<'_> {
    let head = Row::new(["REQUEST", "TOOK", "AGO", "OPERATION", "CLIENT"]).bold();
    let rows = shown.status.slowest.iter().map(|r| {
        Row::new([
            cut(&r.request),
            format!("{:.1} ms", r.took_us as f64 / 1000.0),
            duration_ms(r.age_ms),
            Operation::from_number(r.operation).to_string(),
            cut(&r.client),
        ])
    });
    let widths = [16, 11, 10, 12].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    Table::new(rows, widths)
        .header(head)
        .block(Block::bordered().title("Slowest requests of the last minute"))
}

fn table_of_sessions(shown: &Shown) -> Table<'_> {
    let head = Row::new(["SESSION", "OPEN", "LOCKS", "LEASES", "REQUESTS", "IDLE", "CLIENT"]).bold();
    let mut sessions: Vec<_> = shown.status.sessions.iter().collect();
    sessions.sort_by_key(|s| s.idle_ms);
    let rows = sessions.into_iter().map(|s| {
        Row::new([
            s.session.to_string(),
            s.open.to_string(),
            s.locks.to_string(),
            s.leases.to_string(),
            s.requests.to_string(),
            duration_ms(s.idle_ms),
            cut(&s.client),
        ])
    });
    let widths = [9, 7, 7, 8, 10, 9].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    Table::new(rows, widths).header(head).block(Block::bordered().title("Sessions"))
}

/// Text of others, harmless to a terminal and not too long.
fn cut(text: &str) -> String {
    printable(text.as_bytes()).chars().take(CELL).collect()
}
