// Makes the pages nicer; none of them needs it. Local times, sorting and searching, live updates in place.
"use strict";

// --- Times: markup holds UTC, readers get their own zone ---

const localTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function ago(seconds) {
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds / 10) * 10} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function showTimes() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const local = localTime.format(moment);
    const utc = element.dateTime.replace("T", " ").replace("Z", " UTC");
    const relative = "ago" in element.dataset;
    setText(element, relative ? ago((Date.now() - moment.getTime()) / 1000) : local);
    element.title = relative ? `${local} · ${utc}` : utc;
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- The table of a model's servers; what the reader chose lives in the address: #?q=…&state=…&block=…&sort=-rps ---

const table = document.querySelector("table[data-table]");
const tools = document.getElementById("tools");
const body = table && table.tBodies[0];
const columns = table ? [...table.tHead.rows[0].cells] : [];
const keyOf = (cell) => cell.className.split(" ")[0].slice(2);
const chosen = { q: "", state: "", block: "", sort: "" };
const facts = new WeakMap(); // row → what it is searched and sorted by

function factsOf(row) {
  let known = facts.get(row);
  if (!known) {
    const cells = [...row.cells].map((cell) => cell.textContent.trim());
    const titles = [...row.querySelectorAll("[title]")].map((element) => element.title);
    const { start, end } = row.querySelector(".c-span").dataset;
    const text = [...cells, ...titles, row.querySelector("a").getAttribute("href")].join(" ").toLowerCase();
    known = { cells, start: Number(start), end: Number(end), text, place: facts.size };
    facts.set(row, known);
  }
  return known;
}

function readRows() {
  [...body.rows].forEach((row, place) => {
    facts.delete(row);
    factsOf(row).place = place; // the server's order is by blocks
  });
}

function sortValue(row, column) {
  const known = factsOf(row);
  if (keyOf(columns[column]) === "span") return known.start * 1e6 + known.end;
  const text = known.cells[column];
  if (!columns[column].classList.contains("num")) return text.toLowerCase();
  if (text === "") return null;
  return text === "∞" ? Infinity : parseFloat(text.replaceAll(",", ""));
}

function applyTable() {
  const words = chosen.q.toLowerCase().split(/\s+/).filter(Boolean).map((word) => word.replace(/^[….]+/, ""));
  const block = chosen.block === "" ? null : Number(chosen.block);
  let shown = 0;
  for (const row of body.rows) {
    const known = factsOf(row);
    const fits =
      (!chosen.state || row.className === chosen.state) &&
      (block === null || (known.start <= block && block < known.end)) &&
      words.every((word) => known.text.includes(word));
    if (row.hidden === fits) row.hidden = !fits;
    shown += fits;
  }
  const total = body.rows.length;
  setText(document.getElementById("shown"), shown === total ? `${total} shown` : `${shown} of ${total} shown`);
  document.getElementById("none").hidden = shown > 0 || total === 0;
  sortTable();
}

function sortTable() {
  const descending = chosen.sort.startsWith("-");
  const column = columns.findIndex((cell) => keyOf(cell) === chosen.sort.replace("-", ""));
  columns.forEach((cell, index) => {
    if (index === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  const rows = [...body.rows];
  const values = new Map(column < 0 ? [] : rows.map((row) => [row, sortValue(row, column)]));
  const sign = descending ? -1 : 1;
  const order = (one, other) => {
    const [a, b] = [values.get(one), values.get(other)];
    if (a !== b) {
      if (a === null || a === "") return 1; // what is not known comes last, either way
      if (b === null || b === "") return -1;
      return sign * (a < b ? -1 : 1);
    }
    return factsOf(one).place - factsOf(other).place;
  };
  const sorted = [...rows].sort(column < 0 ? (a, b) => factsOf(a).place - factsOf(b).place : order);
  if (sorted.some((row, index) => row !== rows[index])) keepFocus(() => body.append(...sorted));
}

function readAddress() {
  const given = new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : "");
  for (const name of Object.keys(chosen)) chosen[name] = given.get(name) || "";
  for (const name of ["q", "state", "block"]) tools.elements[name].value = chosen[name];
  for (const name of ["state", "block"]) chosen[name] = tools.elements[name].value; // what the field accepts
}

function writeAddress() {
  const query = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value));
  const hash = query.size ? `#?${query}` : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
}

function choose(changes) {
  Object.assign(chosen, changes);
  writeAddress();
  applyTable();
}

function startTable() {
  for (const cell of columns) {
    if (keyOf(cell) === "bar") continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    button.addEventListener("click", () => {
      const key = keyOf(cell);
      // Numbers are looked for from the top; a third click brings back the order of the blocks.
      const cycle = cell.classList.contains("c-rps") || cell.classList.contains("c-cache") ? [`-${key}`, key, ""] : [key, `-${key}`, ""];
      choose({ sort: cycle[(cycle.indexOf(chosen.sort) + 1) % 3] });
    });
    cell.replaceChildren(button);
  }
  tools.hidden = false;
  const read = () => choose({ q: tools.elements.q.value, state: tools.elements.state.value, block: tools.elements.block.value });
  tools.addEventListener("input", read);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(() => choose({ q: "", state: "", block: "", sort: "" })));
  addEventListener("hashchange", () => { readAddress(); applyTable(); });
  readRows();
  readAddress();
  applyTable();
}

// --- Swapping in new data: the old tree is changed into the new one, so that nothing the reader holds is lost ---

function keepFocus(change) {
  const focused = document.activeElement;
  change();
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function identity(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return null;
  return node.id || (node.nodeName === "TR" && node.querySelector("a")?.getAttribute("href")) || null;
}

// The reader's, not the server's: which details are open, which rows the filter hides.
const readersOwn = (element, name) => (name === "open" && element.nodeName === "DETAILS") || (name === "hidden" && element.nodeName === "TR");

function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) {
    if (!readersOwn(old, name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!readersOwn(old, name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  const known = new Map();
  for (const child of old.children) {
    const key = identity(child);
    if (key) known.set(key, child);
  }
  let place = old.firstChild;
  for (const child of fresh.childNodes) {
    const key = identity(child);
    let match = key ? known.get(key) : place && !identity(place) ? place : null;
    if (match && match.nodeName !== child.nodeName) match = null;
    if (key) known.delete(key);
    if (!match) {
      old.insertBefore(document.importNode(child, true), place);
      continue;
    }
    if (match === place) place = place.nextSibling;
    else old.insertBefore(match, place);
    become(match, child);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function swapIn(page) {
  const landmark = document.elementFromPoint(innerWidth / 2, innerHeight / 4)?.closest("tr, [id]");
  const before = landmark?.getBoundingClientRect().top;
  keepFocus(() => {
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (fresh) become(old, fresh);
    }
    document.title = page.title;
    document.body.dataset.snapshot = page.body.dataset.snapshot || "";
    if (table) {
      readRows();
      applyTable();
    }
    showTimes();
    addCopyButtons();
  });
  if (landmark?.isConnected && !landmark.hidden && scrollY > 0) {
    scrollBy({ top: landmark.getBoundingClientRect().top - before, behavior: "instant" });
  }
}

// --- Live: server-sent events tell that there is something new; polling where they do not come through ---

const RETRY_EVENTS = 60_000;
const live = document.getElementById("live");
const period = Math.max(15, Number(document.body.dataset.period) || 30) * 1000;
let events = null;
let polling = null;
let retrying = null;
let due = null;
let lastStatus;

function say(text, on) {
  setText(live, text);
  live.classList.toggle("on", on);
}

// Everybody learns of a new snapshot at once: spread the requests a little.
function refreshSoon(wanted, attempt = 0) {
  if (due) return;
  due = setTimeout(async () => {
    due = null;
    const got = await refresh();
    // A cache in between may still hold the page before.
    if (wanted && got !== null && got !== wanted && attempt < 3 && !document.hidden) refreshSoon(wanted, attempt + 1);
  }, attempt ? 2000 : Math.random() * 1500);
}

async function refresh() {
  try {
    const response = await fetch(location.pathname + location.search, { cache: "no-cache", headers: { Accept: "text/html" } });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    swapIn(page);
    return page.body.dataset.snapshot || "";
  } catch {
    say("The monitor does not answer; trying again", false);
    return null;
  }
}

function follow() {
  if (document.hidden || events) return;
  clearTimeout(retrying);
  events = new EventSource("/events");
  events.addEventListener("open", () => {
    stopPolling();
    say("Follows the swarm", true);
  });
  events.addEventListener("snapshot", (event) => {
    if (event.data !== document.body.dataset.snapshot) refreshSoon(event.data);
  });
  events.addEventListener("status", (event) => {
    if (lastStatus !== undefined && lastStatus !== event.data) refreshSoon();
    lastStatus = event.data;
  });
  events.addEventListener("error", () => {
    poll();
    if (events && events.readyState === EventSource.CLOSED) {
      events = null;
      retrying = setTimeout(follow, RETRY_EVENTS);
    }
  });
}

function poll() {
  if (polling) return;
  say(`Updates every ${Math.round(period / 1000)} s`, false);
  polling = setInterval(() => refreshSoon(), period);
}

function stopPolling() {
  clearInterval(polling);
  polling = null;
}

function pause() {
  stopPolling();
  clearTimeout(retrying);
  clearTimeout(due);
  due = null;
  events?.close();
  events = null;
}

// --- The one box: suggestions while one types, by keyboard too; without them the form works as it is ---

const MAX_TYPED = 200; // what is longer was pasted, and is for the form

function startSuggestions(form) {
  const field = form.elements.q;
  const list = document.createElement("ul");
  list.id = "ask-list";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Suggestions");
  list.hidden = true;
  field.parentElement.append(list);
  for (const [name, value] of [["role", "combobox"], ["aria-autocomplete", "list"], ["aria-expanded", "false"], ["aria-controls", list.id]]) {
    field.setAttribute(name, value);
  }
  let chosen = -1;
  let asking = null;
  let waiting = null;

  function choose(index) {
    chosen = index;
    [...list.children].forEach((option, place) => option.setAttribute("aria-selected", String(place === chosen)));
    if (chosen < 0) field.removeAttribute("aria-activedescendant");
    else field.setAttribute("aria-activedescendant", list.children[chosen].id);
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  }

  function show(hits) {
    list.replaceChildren(...hits.map((hit, place) => {
      const option = document.createElement("li");
      option.id = `ask-${place}`;
      option.setAttribute("role", "option");
      option.dataset.href = hit.href;
      const name = document.createElement("bdi");
      name.textContent = hit.text;
      const more = document.createElement("small");
      more.textContent = ` ${hit.kind}${hit.more ? `: ${hit.more}` : ""}`;
      option.append(name, more);
      return option;
    }));
    list.hidden = hits.length === 0;
    field.setAttribute("aria-expanded", String(!list.hidden));
    choose(-1);
  }

  async function ask() {
    asking?.abort();
    asking = new AbortController();
    const wanted = field.value.trim();
    if (wanted.length < 2 || wanted.length > MAX_TYPED) return show([]);
    try {
      const response = await fetch(`/api/v1/search?q=${encodeURIComponent(wanted)}`, { signal: asking.signal });
      const answer = response.ok ? await response.json() : { found: [], suggestions: [] };
      show([...answer.found, ...answer.suggestions].slice(0, 8));
    } catch {
      // A later keystroke asks again; the form works without.
    }
  }

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(ask, 150);
  });
  field.addEventListener("keydown", (event) => {
    const last = list.children.length - 1;
    if (event.key === "Escape" && !list.hidden) {
      show([]);
      event.preventDefault();
    } else if (list.hidden) {
      return;
    } else if (event.key === "ArrowDown") {
      choose(chosen >= last ? 0 : chosen + 1);
      event.preventDefault();
    } else if (event.key === "ArrowUp") {
      choose(chosen <= 0 ? last : chosen - 1);
      event.preventDefault();
    } else if (event.key === "Enter" && chosen >= 0) {
      location.assign(list.children[chosen].dataset.href);
      event.preventDefault();
    }
  });
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) location.assign(option.dataset.href);
  });
  // Later than the tap that takes the focus away: on a phone the buttons stand below the list, and would move up.
  field.addEventListener("blur", () => setTimeout(() => { if (document.activeElement !== field) show([]); }, 300));
}

// --- Text to copy ---

function addCopyButtons() {
  for (const box of document.querySelectorAll("[data-copy]")) {
    if (box.querySelector("button") || !navigator.clipboard) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(button);
  }
}

document.querySelectorAll("form[data-suggest]").forEach(startSuggestions);
addCopyButtons();
document.querySelector("[data-focus]")?.focus(); // after a check: where its verdict stands

showTimes();
setInterval(() => { if (!document.hidden) showTimes(); }, 5000);
if (table && tools) startTable();
if ("follow" in document.body.dataset) {
  follow();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      pause();
    } else {
      showTimes();
      follow();
      refreshSoon(); // what was missed meanwhile
    }
  });
  addEventListener("pagehide", pause);
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
}
