// The file browser. Paths are percent-encoded everywhere, since names may hold any bytes; names are only shown.

import { $, ApiError, api, ask, bytes, count, failure, h, moment, sync, text } from "./dom.js";
import { Transfer, filesOf } from "./upload.js";

const PAGE = 200;
const PREVIEW_BYTES = 64 * 1024;
const IMAGES = /\.(png|jpe?g|gif|webp|avif|bmp|svg|ico)$/i;
const LISTED_UPLOADS = 200;

let at = "/";
let cookies = [null];
let next = null;
let searching = null;
const transfers = [];

const join = (dir, segment) => (dir === "/" ? `/${segment}` : `${dir}/${segment}`);
const shown = (path) => {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
};
const parentOf = (path) => path.slice(0, path.lastIndexOf("/")) || "/";

export function open(path) {
  const clean = path.replace(/\/+$/, "") || "/";
  if (clean !== at) text($("files-message"), "");
  at = clean;
  cookies = [null];
  stopSearch();
  $("search-name").value = "";
  drawCrumbs();
  load();
}

function say(message) {
  text($("files-message"), message);
  text($("files-error"), "");
}

function complain(error) {
  if (error instanceof ApiError && error.status === 401) dispatchEvent(new Event("quarry-unauthenticated"));
  text($("files-error"), error.status === 403 ? `Not allowed: ${error.message}.` : `${error.message}.`);
}

/** Runs what a button asks for, and says why it did not work. */
const doing = (work) => async (...args) => {
  text($("files-error"), "");
  try {
    await work(...args);
  } catch (error) {
    complain(error);
  }
};

function drawCrumbs() {
  const parts = at.split("/").filter(Boolean);
  const links = [h("a", { href: "#/files/" }, "root")];
  parts.forEach((segment, i) => {
    const href = `#/files/${parts.slice(0, i + 1).join("/")}`;
    links.push(" / ", h("a", { href, "aria-current": i === parts.length - 1 ? "page" : null }, shown(segment)));
  });
  $("crumbs").replaceChildren(...links);
  $("archive").href = `/api/v1/archive${at}`;
  $("archive-zip").href = `/api/v1/archive${at}?format=zip`;
}

async function load() {
  const here = at;
  const after = cookies.at(-1);
  try {
    const page = await api("GET", `/entries${here}?limit=${PAGE}${after ? `&after=${after}` : ""}`);
    if (here !== at || searching) return;
    next = page.next;
    drawEntries(page.entries);
    $("listing-empty").hidden = page.entries.length > 0 || cookies.length > 1;
    $("page-first").disabled = $("page-previous").disabled = cookies.length === 1;
    $("page-next").disabled = !next;
    text($("page-text"), cookies.length > 1 || next ? `Page ${cookies.length}, ${count(page.entries.length)} entries` : `${count(page.entries.length)} entries`);
  } catch (error) {
    drawEntries([]);
    complain(error);
  }
}

function drawEntries(entries) {
  sync($("listing").tBodies[0], entries, (e) => `${e.path} ${e.version}`, row);
}

function row(entry) {
  const isDir = entry.kind === "directory";
  const label = isDir ? `${entry.name}/` : entry.name;
  const name = isDir
    ? h("a", { href: `#/files${entry.path}` }, label)
    : h("a", { href: `/api/v1/files${entry.path}`, onclick: (event) => { event.preventDefault(); details(entry); } }, label);
  const cell = (title, ...content) => h("td", { "data-label": title }, ...content);
  const button = (what, work) => h("button", { "aria-label": `${what} ${entry.name}`, onclick: doing(work) }, what);
  return h("tr", {},
    h("td", { class: "name" }, name),
    cell("Size", isDir ? "" : bytes(entry.size)),
    cell("Changed", moment(entry.mtime_ms)),
    cell("Mode", h("code", {}, entry.mode)),
    cell("Owner", `${entry.uid}:${entry.gid}`),
    h("td", { class: "actions" },
      isDir ? h("a", { class: "button", href: `/api/v1/archive${entry.path}`, download: true, "aria-label": `Download ${entry.name} as tar` }, "Download") : null,
      entry.kind === "file" ? h("a", { class: "button", href: `/api/v1/files${entry.path}?download=1`, download: true, "aria-label": `Download ${entry.name}` }, "Download") : null,
      button("Details", () => details(entry)),
      button("Rename", () => rename(entry)),
      button("Delete", () => remove(entry))));
}

async function rename(entry) {
  const name = await ask({ title: "Rename", label: "New name", value: entry.name, yes: "Rename" });
  if (name === null || name === entry.name) return;
  const to = join(parentOf(entry.path), encodeURIComponent(name));
  if (name.includes("/") || name === "." || name === ".." || name === "") throw new Error("A name has no slash and is not . or ..");
  await api("POST", "/rename", { from: entry.path, to });
  say(`Renamed ${entry.name} to ${name}.`);
  await load();
}

async function remove(entry) {
  const isDir = entry.kind === "directory";
  const question = isDir ? `Delete the folder ${entry.name} with everything in it? This cannot be undone.` : `Delete ${entry.name}? This cannot be undone.`;
  if (!(await ask({ title: "Delete", text: question, yes: "Delete", danger: true }))) return;
  await api("DELETE", `/files${entry.path}?recursive=${isDir}`);
  say(`Deleted ${entry.name}.`);
  await load();
}

$("new-folder").onclick = doing(async () => {
  const name = await ask({ title: "New folder", label: "Name", yes: "Create" });
  if (name === null) return;
  await api("POST", `/entries${join(at, encodeURIComponent(name))}`);
  say(`Created ${name}.`);
  await load();
});

$("page-first").onclick = () => { cookies = [null]; load(); };
$("page-previous").onclick = () => { cookies.pop(); load(); };
$("page-next").onclick = () => { cookies.push(next); load(); };

// Uploads

$("upload-files").onclick = () => $("pick-files").click();
$("upload-folder").onclick = () => $("pick-folder").click();
for (const id of ["pick-files", "pick-folder"]) {
  $(id).onchange = doing(async (event) => {
    const files = [...event.target.files].map((file) => [file, file.webkitRelativePath || file.name]);
    event.target.value = "";
    await upload(files);
  });
}

const drop = $("drop");
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", doing(async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  await upload(await filesOf(event.dataTransfer));
}));

async function upload(files) {
  const base = at;
  const encoded = files.map(([file, name]) => [file, join(base, name.split("/").map(encodeURIComponent).join("/"))]);
  const folders = [...new Set(encoded.map(([, path]) => parentOf(path)).filter((dir) => dir !== base))].sort();
  for (const folder of folders) await api("POST", `/entries${folder}?parents=true`);
  for (const [file, path] of encoded) {
    const transfer = new Transfer(file, path, drawTransfer);
    transfers.unshift(transfer);
    transfer.queue();
  }
  while (transfers.length > LISTED_UPLOADS && transfers.at(-1).state === "done") transfers.pop();
  drawTransfers();
}

function drawTransfers() {
  $("transfers").hidden = transfers.length === 0;
  sync($("transfer-list"), transfers, (t) => t.key, (t) => {
    const item = h("li", { class: "transfer" },
      h("span", { class: "name" }), h("span", {}, h("button", { class: "retry" }, "Try again"), " ", h("button", { class: "replace" }, "Replace"), " ", h("button", { class: "cancel" }, "Cancel")),
      h("progress", { max: "1", value: "0", "aria-label": `Upload of ${t.file.name}` }));
    item.querySelector(".retry").onclick = () => t.queue();
    item.querySelector(".replace").onclick = () => { t.overwrite = true; t.queue(); };
    item.querySelector(".cancel").onclick = () => t.cancel();
    return item;
  }, drawItem);
}

function drawItem(item, t) {
  const states = { waiting: "waiting", running: `${bytes(t.sent)} of ${bytes(t.file.size)}`, done: `done, ${bytes(t.file.size)}`, cancelled: "cancelled", failed: `failed: ${t.error?.message}` };
  text(item.querySelector(".name"), `${t.file.name}: ${states[t.state]}`);
  const bar = item.querySelector("progress");
  bar.value = t.state === "done" ? 1 : t.file.size ? t.sent / t.file.size : 0;
  item.querySelector(".retry").hidden = t.state !== "failed" || t.error?.code === "exists";
  item.querySelector(".replace").hidden = t.error?.code !== "exists" || t.state !== "failed";
  item.querySelector(".cancel").hidden = t.state !== "running" && t.state !== "waiting";
}

let reload = null;

function drawTransfer(t) {
  const item = [...$("transfer-list").children].find((i) => i.dataset.key === t.key);
  if (item) drawItem(item, t);
  if (t.state !== "done") return;
  say(`Uploaded ${t.file.name}.`);
  // One look at the folder for many small files.
  clearTimeout(reload);
  reload = setTimeout(() => { if (!searching) load(); }, 150);
}

// Search

function stopSearch() {
  searching?.abort();
  searching = null;
  $("pager").hidden = false;
}

$("search").addEventListener("submit", doing(async (event) => {
  event.preventDefault();
  stopSearch();
  const name = $("search-name").value;
  if (name === "") return load();
  searching = new AbortController();
  const mine = searching;
  $("pager").hidden = true;
  $("listing-empty").hidden = true;
  const found = [];
  drawEntries(found);
  say("Searching…");
  const response = await fetch(`/api/v1/search${at}?name=${encodeURIComponent(name)}`, { signal: mine.signal });
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done || mine !== searching) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((l) => JSON.parse(l))) {
      if (line.match) found.push({ ...line.match, name: shown(line.match.path) });
      else if (line.error) throw new Error(line.error);
      else say(`${line.done ? "Done: " : "Searching… "}${count(found.length)} found among ${count(line.seen)} names${line.more ? "; there are more" : ""}.`);
    }
    drawEntries(found);
  }
}));

// Details

$("details-close").onclick = () => $("details").close();

async function details(entry) {
  const body = $("details-body");
  $("details-title").textContent = entry.name;
  body.replaceChildren(h("p", {}, "Loading…"));
  $("details").showModal();
  try {
    const attributes = await api("GET", `/attributes${entry.path}`);
    const parts = [pairsOf(attributes), modeForm(attributes)];
    if (entry.kind === "file") parts.push(await preview(entry), await chunks(entry));
    body.replaceChildren(...parts.filter(Boolean));
  } catch (error) {
    body.replaceChildren(h("p", { class: "error", role: "alert" }, `${error.message}.`));
  }
}

function pairsOf(a) {
  const items = [
    ["Kind", a.kind], ["Size", `${bytes(a.size)} (${count(a.size)} bytes, ${bytes(a.allocated)} allocated)`], ["Inode", String(a.inode)], ["Owner", `${a.uid}:${a.gid}`], ["Links", String(a.links)],
    ["Changed", moment(a.mtime_ms)], ["Attributes changed", moment(a.ctime_ms)], ...(a.target ? [["Target", a.target]] : []),
    ...Object.entries(a.xattrs ?? {}),
  ];
  return h("dl", { class: "pairs" }, items.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function modeForm(a) {
  const input = h("input", { id: "mode-input", value: a.mode, pattern: "[0-7]{3,4}", size: "5", required: true });
  const error = h("span", { class: "error", role: "alert" });
  return h("form", {
    class: "buttons",
    onsubmit: async (event) => {
      event.preventDefault();
      try {
        await api("PATCH", `/attributes${a.path}`, { mode: input.value });
        text(error, "");
        say(`Changed the mode of ${a.name}.`);
        $("details").close();
        load();
      } catch (problem) {
        text(error, `${problem.message}.`);
      }
    },
  }, h("label", { for: "mode-input" }, "Mode (octal)"), input, h("button", {}, "Change mode"), error);
}

async function preview(entry) {
  const url = `/api/v1/files${entry.path}`;
  if (IMAGES.test(entry.name)) return h("img", { class: "preview", src: url, alt: `Preview of ${entry.name}` });
  if (entry.size === 0) return null;
  const response = await fetch(url, { headers: { Range: `bytes=0-${PREVIEW_BYTES - 1}` } });
  if (!response.ok) throw await failure(response);
  const data = new Uint8Array(await response.arrayBuffer());
  if (data.includes(0)) return h("p", { class: "muted" }, "No preview: this is not text.");
  const content = new TextDecoder().decode(data) + (entry.size > data.length ? "\n…" : "");
  return h("pre", { class: "preview", tabindex: "0", "aria-label": `Beginning of ${entry.name}` }, content);
}

async function chunks(entry) {
  const body = h("tbody", {});
  const more = h("button", { hidden: true }, "More chunks");
  let after = null;
  const load = async () => {
    const page = await api("GET", `/chunks${entry.path}${after ? `?after=${after}` : ""}`);
    for (const chunk of page.chunks) {
      const nodes = chunk.nodes.map((n) => (n.state === "serving" ? String(n.node) : `${n.node} (${n.state})`)).join(", ");
      const cell = (label, ...content) => h("td", { "data-label": label }, ...content);
      body.append(h("tr", { dataset: { chunk: chunk.id } }, cell("Chunk", h("code", {}, chunk.id)), cell("At", bytes(chunk.offsets[0] ?? 0)), cell("Length", bytes(chunk.length)), cell("Nodes", h("span", { class: "nodes" }, nodes)), cell("SHA-256", h("code", {}, chunk.sha256))));
    }
    after = page.next;
    more.hidden = !after;
  };
  more.onclick = doing(load);
  await load();
  const verdict = h("p", { id: "verify-text", role: "status" });
  const verify = h("button", { id: "verify", onclick: doing(() => verifyReplicas(entry, body, verdict, verify)) }, "Verify every replica");
  return h("section", {}, h("h3", {}, "Chunks"), h("p", { class: "buttons" }, verify), verdict,
    h("table", { class: "stack", id: "chunks" }, h("thead", {}, h("tr", {}, ["Chunk", "At", "Length", "Nodes", "SHA-256"].map((t) => h("th", { scope: "col" }, t)))), body), more);
}

/** Has every replica read and hashed, page by page, and marks what is wrong. */
async function verifyReplicas(entry, rows, verdict, button) {
  button.disabled = true;
  let after = null;
  let good = 0;
  const bad = [];
  try {
    do {
      const page = await api("POST", `/verify${entry.path}${after ? `?after=${after}` : ""}`);
      for (const chunk of page.chunks) {
        for (const replica of chunk.replicas) {
          if (replica.fault === null) good += 1;
          else bad.push(`chunk ${chunk.id} at node ${replica.node}: ${replica.fault}`);
        }
        const row = [...rows.rows].find((r) => r.dataset.chunk === chunk.id);
        const faulty = chunk.replicas.some((r) => r.fault !== null);
        row?.querySelector(".nodes").append(" ", h("span", { class: `state ${faulty ? "bad" : "good"}` }, faulty ? "bad" : "verified"));
      }
      after = page.next;
      text(verdict, `${count(good)} replicas are good so far…`);
    } while (after);
    text(verdict, bad.length === 0 ? `All ${count(good)} replicas are good: the SHA-256 of each is the NameNode's.` : `${count(bad.length)} of ${count(good + bad.length)} replicas are not good: ${bad.join("; ")}.`);
  } catch (error) {
    text(verdict, `The check broke off: ${error.message}.`);
  } finally {
    button.disabled = false;
  }
}
