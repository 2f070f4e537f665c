// Uploads: in pieces that survive a broken connection, several files at once, with progress.
//
// The gateway keeps the data that has arrived beside the target. After a failure the upload asks how much that is and goes on
// there, also after the page was loaded anew: the id of an unfinished upload is remembered with the file's name, size and date.

import { api, failure } from "./dom.js";

const PIECE = 8 * 1024 * 1024;
const AT_ONCE = 3;
const TRIES = 6;
const REMEMBERED = "quarry-uploads";

const waiting = [];
let running = 0;

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(REMEMBERED)) ?? {};
  } catch {
    return {};
  }
}

function remember(key, id) {
  const all = remembered();
  if (id) all[key] = id;
  else delete all[key];
  // Old ones go first: a page must not fill the browser's storage.
  const keys = Object.keys(all);
  for (const old of keys.slice(0, Math.max(0, keys.length - 200))) delete all[old];
  localStorage.setItem(REMEMBERED, JSON.stringify(all));
}

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** One file on its way. `changed` is called whenever there is something to draw. */
export class Transfer {
  constructor(file, path, changed) {
    Object.assign(this, { file, path, changed, sent: 0, state: "waiting", error: null, overwrite: false, request: null });
    this.key = `${path} ${file.size} ${file.lastModified}`;
  }

  queue() {
    this.state = "waiting";
    this.error = null;
    waiting.push(this);
    this.changed(this);
    next();
  }

  cancel() {
    this.state = "cancelled";
    this.request?.abort();
    const id = remembered()[this.key];
    remember(this.key, null);
    if (id) api("DELETE", `/uploads${this.path}?id=${id}`).catch(() => {});
    this.changed(this);
  }

  url(more) {
    return `/uploads${this.path}?id=${this.id}&overwrite=${this.overwrite}${more}`;
  }

  async run() {
    this.id = remembered()[this.key] ?? newId();
    remember(this.key, this.id);
    let failures = 0;
    while (this.state === "running") {
      try {
        this.sent = (await api("GET", this.url(""))).offset;
        while (this.sent < this.file.size && this.state === "running") {
          this.sent = await this.piece(this.sent);
          failures = 0;
          this.changed(this);
        }
        if (this.state !== "running") return;
        await api("POST", this.url(`&size=${this.file.size}`));
        remember(this.key, null);
        this.state = "done";
      } catch (error) {
        if (this.state !== "running") return;
        failures += 1;
        // What the gateway refuses it refuses again; what broke off is tried again, more and more slowly.
        const final = error.status !== undefined && error.status < 500 && error.status !== 408;
        if (final || failures >= TRIES) {
          this.state = "failed";
          this.error = error;
        } else {
          await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** failures));
        }
      }
    }
    this.changed(this);
  }

  /** Sends one piece. XMLHttpRequest, since fetch tells nothing of what was sent. */
  piece(offset) {
    const end = Math.min(offset + PIECE, this.file.size);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.request = request;
      request.open("PUT", `/api/v1${this.url(`&offset=${offset}`)}`);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.addEventListener("progress", (event) => {
        this.sent = offset + event.loaded;
        this.changed(this);
      });
      request.addEventListener("load", async () => {
        if (request.status < 300) resolve(JSON.parse(request.responseText).offset);
        else reject(await failure(new Response(request.responseText, { status: request.status })));
      });
      request.addEventListener("error", () => reject(new Error("the connection broke off")));
      request.addEventListener("abort", () => reject(new Error("cancelled")));
      request.send(this.file.slice(offset, end));
    });
  }
}

async function next() {
  if (running >= AT_ONCE) return;
  const transfer = waiting.shift();
  if (!transfer) return;
  if (transfer.state === "waiting") {
    running += 1;
    transfer.state = "running";
    transfer.changed(transfer);
    await transfer.run();
    running -= 1;
  }
  next();
}

/** Files of a drop, with the folders that were dropped: [file, "folder/name"]. */
export async function filesOf(dataTransfer) {
  const entries = [...dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return [...dataTransfer.files].map((file) => [file, file.name]);
  const found = [];
  const visit = async (entry, prefix) => {
    if (entry.isFile) {
      found.push([await new Promise((resolve, reject) => entry.file(resolve, reject)), prefix + entry.name]);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const page = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (page.length === 0) return;
      for (const child of page) await visit(child, `${prefix}${entry.name}/`);
    }
  };
  for (const entry of entries) await visit(entry, "");
  return found;
}
