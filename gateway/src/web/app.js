// Views, login, and the way between them.

import { $, api, text } from "./dom.js";
import * as cluster from "./cluster.js";
import * as files from "./files.js";

const VIEWS = ["login", "cluster", "files"];
let session = null;

function show(view) {
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view;
  for (const name of ["cluster", "files"]) {
    if (name === view) $(`nav-${name}`).setAttribute("aria-current", "page");
    else $(`nav-${name}`).removeAttribute("aria-current");
  }
}

async function route() {
  if (session === null || (session.login_required && !session.user)) session = await api("GET", "/session");
  const user = session.user;
  text($("who"), user ? `${user.name} (${user.role})` : "");
  $("logout").hidden = !session.login_required || !user;
  if (!user) {
    cluster.stop();
    show("login");
    $("login-name").focus();
    return;
  }
  const [, view, path] = /^#\/(cluster|files)(\/.*)?$/.exec(location.hash) ?? [null, "cluster", null];
  document.title = view === "files" ? "Files · Quarry" : "Cluster · Quarry";
  show(view);
  // The health in the header of the files view comes from the same stream.
  cluster.start(user);
  if (view === "files") files.open(path ?? "/");
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  text($("login-error"), "");
  try {
    await api("POST", "/login", { name: $("login-name").value, password: $("login-password").value });
    $("login-password").value = "";
    session = null;
    await route();
    $("main").focus();
  } catch (error) {
    text($("login-error"), error.message);
  }
});

$("logout").addEventListener("click", async () => {
  await api("POST", "/logout");
  session = null;
  route();
});

addEventListener("hashchange", route);
addEventListener("quarry-unauthenticated", () => {
  session = null;
  route();
});
route();
