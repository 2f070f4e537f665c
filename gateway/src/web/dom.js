// Elements, figures and requests, for the other modules. Text from the cluster only ever becomes text nodes and attributes.

export const $ = (id) => document.getElementById(id);

/** An element: h("a", { href, class, onclick, dataset: {...} }, child, ...). */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return element;
}

/** Sets a text without touching the document when it is the same: screen readers repeat what is touched. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Makes the children of `parent` correspond to the items: rows keep their identity, so focus and selection stay. */
export function sync(parent, items, key, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const id = String(key(item));
    let child = known.get(id);
    if (child) known.delete(id);
    else {
      child = create(item);
      child.dataset.key = id;
    }
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    update?.(child, item);
  });
  for (const gone of known.values()) gone.remove();
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

export function bytes(n) {
  const sign = n < 0 ? "−" : "";
  let value = Math.abs(n);
  let unit = 0;
  while (value >= 1000 && unit + 1 < UNITS.length) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${sign}${value.toFixed(digits)} ${UNITS[unit]}`;
}

export const count = (n) => Number(n).toLocaleString("en");

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.floor(ms / 3_600_000)} h`;
  return `${Math.floor(ms / 86_400_000)} d`;
}

export const moment = (ms) => new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** A sparkline as SVG. */
export function spark(points, label) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 120 26");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  drawSpark(svg, points, label);
  return svg;
}

export function drawSpark(svg, points, label) {
  const ns = "http://www.w3.org/2000/svg";
  const low = Math.min(0, ...points);
  const high = Math.max(1, ...points);
  const x = (i) => 120 - (points.length - 1 - i);
  const y = (v) => 24 - ((v - low) / (high - low)) * 22;
  const line = points.map((v, i) => `${i ? "L" : "M"}${x(i)} ${y(v).toFixed(1)}`).join("");
  const path = (d, cls) => {
    const p = document.createElementNS(ns, "path");
    p.setAttribute("d", d);
    if (cls) p.setAttribute("class", cls);
    return p;
  };
  const area = points.length > 1 ? `${line}L120 ${y(low)}L${x(0)} ${y(low)}Z` : "";
  svg.replaceChildren(...(points.length > 1 ? [path(area, "area"), path(line)] : []));
  svg.setAttribute("aria-label", label);
}

/** An answer of the gateway that is no success. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export async function failure(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not an answer of the gateway itself: a proxy's, or none.
  }
  return new ApiError(response.status, error.code ?? "unknown", error.message ?? `HTTP status ${response.status}`);
}

/** A request to the file API; a body that is an object is sent as JSON. */
export async function api(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(`/api/v1${path}`, options);
  if (!response.ok) throw await failure(response);
  return response.status === 204 ? null : response.json();
}

/** Asks a question in a dialog. Resolves to the text of the field, to true without one, or to null. */
export function ask({ title, text: question = "", label, value = "", yes, danger = false }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = question;
  $("ask-field").hidden = label === undefined;
  $("ask-label").textContent = label ?? "";
  $("ask-input").value = value;
  $("ask-input").required = label !== undefined;
  $("ask-yes").textContent = yes;
  $("ask-yes").className = danger ? "danger" : "primary";
  dialog.returnValue = "no";
  dialog.showModal();
  if (label !== undefined) $("ask-input").select();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue !== "yes" ? null : label === undefined ? true : $("ask-input").value),
      { once: true },
    );
  });
}
