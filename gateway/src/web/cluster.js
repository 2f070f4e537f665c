// The dashboard: one stream of events, drawn once a second.

import { $, api, bytes, count, drawSpark, duration, h, moment, spark, sync, text } from "./dom.js";

const POINTS = 120;
let source = null;
let history = { operations: [], requests: [], growth: {}, disks: {} };
let last = null;
let received = 0;
let ticking = null;
let drawnGroups = "";
let user = null;

export function start(who) {
  user = who;
  if (source) return;
  source = new EventSource("/api/v1/live");
  source.addEventListener("history", (event) => {
    history = JSON.parse(event.data);
  });
  source.addEventListener("status", (event) => {
    last = JSON.parse(event.data);
    received = performance.now();
    remember(last);
    draw(last);
  });
  source.addEventListener("open", () => text($("connection"), ""));
  source.addEventListener("error", async () => {
    text($("connection"), "The gateway does not answer; trying again…");
    const session = await api("GET", "/session").catch(() => null);
    if (session && !session.user) dispatchEvent(new Event("quarry-unauthenticated"));
    else if (source?.readyState === EventSource.CLOSED) {
      // An answer that is no stream, such as "too many listeners", ends the source for good.
      stop();
      setTimeout(() => start(user), 3000);
    }
  });
  ticking = setInterval(tick, 250);
  for (const [button, deep] of [["check-now", false], ["check-deep", true]]) $(button).onclick = () => check(deep);
}

export function stop() {
  source?.close();
  source = null;
  clearInterval(ticking);
}

function remember(s) {
  const keep = (list, value) => {
    list.push(value);
    if (list.length > POINTS) list.shift();
  };
  keep(history.operations, s.namenode.operations_per_s);
  keep(history.requests, s.namenode.requests_per_s);
  for (const node of s.nodes) {
    keep((history.growth[node.id] ??= []), node.growth);
    for (const d of node.disks) keep((history.disks[`${node.id} ${d.path}`] ??= []), d.read_per_s + d.written_per_s);
  }
}

/** Heartbeats age between two messages. */
function tick() {
  if (!last) return;
  const since = performance.now() - received;
  for (const row of $("nodes").tBodies[0].rows) {
    const node = last.nodes.find((n) => String(n.id) === row.dataset.key);
    if (node) text(row.querySelector(".age"), node.heartbeat_age_ms === null ? "none yet" : `${duration(node.heartbeat_age_ms + since)} ago`);
  }
}

function draw(s) {
  text($("cluster-name"), s.cluster);
  $("health").dataset.level = s.health.level;
  text($("health-sentence"), s.health.sentence);
  sync($("health-advice"), s.health.advice, (a) => a, (a) => h("li", {}, a));
  drawHealing(s);
  drawTiles(s);
  drawNodes(s);
  drawDisks(s);
  drawMatrix(s);
  drawCheck(s);
  drawNameNode(s);
  drawSessions(s);
  sync(
    $("events"), s.events, (e) => `${e.at_ms} ${e.text}`,
    (e) => h("li", { class: e.severity === "error" ? "error-event" : e.severity }, h("time", { datetime: new Date(e.at_ms).toISOString() }, moment(e.at_ms)), e.text),
  );
  tick();
}

function drawHealing(s) {
  $("healing").hidden = !s.healing;
  if (!s.healing) return;
  const { done, total, left_s: left } = s.healing;
  const estimate = left === null ? "" : `, about ${duration(left * 1000)} left`;
  text($("healing-text"), `Healing: ${done} of ${total} placement groups complete${estimate}`);
  $("healing-bar").max = total;
  $("healing-bar").value = done;
}

function drawTiles(s) {
  const capacity = s.nodes.reduce((sum, n) => sum + n.capacity, 0);
  const free = s.nodes.reduce((sum, n) => sum + n.free, 0);
  const healthy = s.nodes.filter((n) => n.state === "healthy").length;
  const groups = s.groups.healthy + s.groups.degraded + s.groups.healing;
  const tiles = [
    ["DataNodes healthy", `${healthy} of ${s.nodes.length}`, ""],
    ["Groups complete", `${s.groups.healthy} of ${groups}`, `${s.groups.degraded} degraded, ${s.groups.healing} healing`],
    ["Space free", bytes(free), `of ${bytes(capacity)} raw`],
    ["Files", count(s.files), `in ${count(s.directories)} folders`],
    ["Data", bytes(s.bytes), `${count(s.chunks)} chunks`],
    ["Operations", `${s.namenode.operations_per_s.toFixed(1)}/s`, `${s.namenode.requests_per_s.toFixed(1)} requests/s`],
  ];
  sync(
    $("tiles"), tiles, ([name]) => name,
    ([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("span", {}), h("small", {}))),
    (tile, [, value, more]) => {
      text(tile.querySelector("span"), value);
      text(tile.querySelector("small"), more);
    },
  );
}

const cell = (label, ...children) => h("td", { "data-label": label }, ...children);

function drawNodes(s) {
  sync(
    $("nodes").tBodies[0], s.nodes, (n) => n.id,
    (n) => h("tr", {},
      h("td", { class: "name" }, h("strong", {}, `DataNode ${n.id}`), h("div", { class: "small address" })),
      cell("State", h("div", {}, h("span", { class: "state" }), h("div", { class: "small trouble" }))),
      cell("Heartbeat", h("span", { class: "age" })),
      cell("Space used", h("div", {}, h("div", { class: "bar", "aria-hidden": "true" }, h("span", {})), h("span", { class: "small space" }))),
      cell("Chunks", h("span", { class: "chunks" })),
      cell("Growth, 2 min", h("div", {}, spark([], ""), h("span", { class: "small growth" }))),
      cell("Scrubbed", h("span", { class: "scrubbed" })),
      cell("Rotten", h("span", { class: "rotten" }))),
    (row, n) => {
      const part = (name) => row.querySelector(`.${name}`);
      text(part("address"), n.rack ? `${n.address}, rack ${n.rack}` : n.address);
      part("state").className = `state ${n.state}`;
      text(part("state"), n.state);
      text(part("trouble"), n.trouble);
      const used = n.capacity ? 1 - n.free / n.capacity : 0;
      part("bar").className = `bar ${used > 0.95 ? "top-full" : used > 0.85 ? "high" : ""}`;
      part("bar").firstChild.style.width = `${Math.round(used * 100)}%`;
      text(part("space"), `${Math.round(used * 100)} % of ${bytes(n.capacity)}`);
      text(part("chunks"), `${count(n.chunks)} (${bytes(n.bytes)})`);
      const growth = `${bytes(n.growth)}/s`;
      drawSpark(row.querySelector("svg"), history.growth[n.id] ?? [], `Growth of DataNode ${n.id}, now ${growth}`);
      text(part("growth"), growth);
      text(part("scrubbed"), n.scrubbed_at_ms ? `all by ${moment(n.scrubbed_at_ms)}` : `${count(n.scrubbed)}, first pass`);
      text(part("rotten"), count(n.rotten));
    },
  );
}

function drawDisks(s) {
  const disks = s.nodes.flatMap((n) => n.disks.map((d) => ({ ...d, node: n.id, key: `${n.id} ${d.path}` })));
  sync(
    $("disks").tBodies[0], disks, (d) => d.key,
    (d) => h("tr", {},
      h("td", { class: "name" }, h("strong", {}, `DataNode ${d.node}`), h("div", { class: "small" }, d.path)),
      cell("State", h("div", {}, h("span", { class: "state" }), h("div", { class: "small trouble" }))),
      cell("Throughput, 2 min", h("div", {}, spark([], ""), h("span", { class: "small rate" }))),
      cell("Latency", h("span", { class: "latency" })),
      cell("Errors", h("span", { class: "errors" }))),
    (row, d) => {
      const part = (name) => row.querySelector(`.${name}`);
      part("state").className = `state ${{ working: "healthy", stalled: "suspect", slow: "suspect", failed: "dead" }[d.state] ?? d.state}`;
      text(part("state"), d.state);
      text(part("trouble"), d.trouble);
      const rate = `${bytes(d.read_per_s)}/s read, ${bytes(d.written_per_s)}/s written`;
      drawSpark(row.querySelector("svg"), history.disks[d.key] ?? [], `Throughput of ${d.path} of DataNode ${d.node}, now ${rate}`);
      text(part("rate"), rate);
      text(part("latency"), `${(d.latency_us / 1000).toFixed(1)} ms`);
      text(part("errors"), count(d.errors));
    },
  );
}

/** A row for each node, by rack; a column for each placement group. */
function drawMatrix(s) {
  const state = JSON.stringify([s.groups.list, s.nodes.map((n) => [n.id, n.state, n.rack, n.chunks])]);
  if (state === drawnGroups) return;
  drawnGroups = state;
  const away = new Set(s.nodes.filter((n) => n.state === "dead" || n.state === "suspect").map((n) => n.id));
  const racks = [...new Set(s.nodes.map((n) => n.rack))].sort();
  const omitted = s.groups.omitted ? `; ${count(s.groups.omitted)} more are not drawn` : "";
  text($("distribution-text"), `${s.nodes.length} nodes in ${racks.length} ${racks.length === 1 ? "rack" : "racks"}, ${s.groups.list.length} placement groups${omitted}. Each column is a group; a filled cell is a node that holds its chunks.`);
  const most = Math.max(1, ...s.nodes.map((n) => n.chunks));
  const nodes = [...s.nodes].sort((a, b) => a.rack.localeCompare(b.rack) || a.id - b.id);
  const rows = nodes.map((n) => {
    const width = h("span", {});
    width.style.width = `${Math.round((n.chunks / most) * 100)}%`;
    return h("tr", {},
      h("th", { scope: "row" }, n.rack ? `${n.rack} / ${n.id}` : `Node ${n.id}`),
      s.groups.list.map((g) => {
        const member = g.members.find((m) => m.node === n.id);
        const kind = !member ? "none" : away.has(n.id) ? "away" : member.state;
        return h("td", {}, h("span", { class: `cell ${kind}`, title: member ? `group ${g.id}, node ${n.id}: ${kind}, replication ${g.replication}` : null }));
      }),
      h("td", { class: "count" }, h("div", { class: "bar", "aria-hidden": "true" }, width), `${count(n.chunks)} chunks in ${n.groups} groups`));
  });
  $("matrix").replaceChildren(h("table", {}, h("tbody", {}, rows)));
}

function drawCheck(s) {
  const admin = user?.role === "admin";
  const c = s.check;
  for (const id of ["check-now", "check-deep"]) $(id).disabled = !admin || (c && !c.done);
  const scrubbed = s.nodes.reduce((sum, n) => sum + n.scrubbed, 0);
  const rotten = s.nodes.reduce((sum, n) => sum + n.rotten, 0);
  const scrub = `Scrubbers have verified ${count(scrubbed)} replicas since their nodes started and found ${count(rotten)} rotten. `;
  let state = "No check was started from here yet.";
  if (c?.error) state = `The check broke off: ${c.error}.`;
  else if (c && !c.done) state = `Checking (${c.phase}): ${count(c.inodes)} inodes, ${count(c.replicas)} replicas so far.`;
  else if (c) state = `Last check, ${moment(c.begun_ms)}: ${c.problem_count === 0 ? "no problem" : `${count(c.problem_count)} problems`} in ${count(c.inodes)} inodes, ${count(c.chunks)} chunks and ${count(c.replicas)} replicas${c.deep ? ", every byte read" : ""}.`;
  text($("check-text"), scrub + state);
  sync($("check-problems"), c?.problems ?? [], (p) => JSON.stringify(p), (p) => h("li", { class: "error" }, p.what));
}

async function check(deep) {
  text($("check-error"), "");
  try {
    await api("POST", "/check", { deep });
  } catch (error) {
    text($("check-error"), error.message);
  }
}

function pairs(list, items) {
  sync(
    list, items.flatMap(([name, value]) => [[`${name}-t`, name], [`${name}-d`, value]]), ([key]) => key,
    ([key]) => h(key.endsWith("-t") ? "dt" : "dd", {}),
    (element, [, value]) => {
      if (value instanceof Node) { if (element.firstChild !== value) element.replaceChildren(value); } else text(element, value);
    },
  );
}

const operations = spark([], "Operations per second");

function drawNameNode(s) {
  const n = s.namenode;
  drawSpark(operations, history.operations, `Operations per second, now ${n.operations_per_s.toFixed(1)}`);
  pairs($("namenode"), [
    ["Address", n.address],
    ["Answers", s.reachable ? "yes" : "no"],
    ["Up for", duration(n.uptime_s * 1000)],
    ["Operations", operations],
    ["Memory", bytes(n.memory_bytes)],
    ["Log position", count(n.applied)],
    ["Since the last checkpoint", `${count(n.unsaved)} changes`],
    ["Chunks to delete", count(s.chunks_deleting)],
  ]);
  sync(
    $("slowest"), n.slowest, (r) => `${r.operation} ${r.request} ${r.took_us}`,
    (r) => h("li", {}, `${r.request} of ${r.client}: ${(r.took_us / 1000).toFixed(1)} ms (operation ${r.operation})`),
  );
  pairs($("workers"), n.workers.map((w) => [w.name, w.now]));
}

function drawSessions(s) {
  const columns = ["Idle", "Open", "Locks", "Leases", "Requests"];
  sync(
    $("sessions").tBodies[0], s.sessions, (c) => c.session,
    (c) => h("tr", {}, cell("Session", String(c.session)), h("td", { class: "name", "data-label": "Client" }, c.client), columns.map((name) => cell(name, h("span", {})))),
    (row, c) => {
      const values = [duration(c.idle_ms), count(c.open), count(c.locks), count(c.leases), count(c.requests)];
      row.querySelectorAll("span").forEach((span, i) => text(span, values[i]));
    },
  );
}
