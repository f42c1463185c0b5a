// Watches what a page is about: notification, title and favicon while it is open. What is watched is kept in this
// browser alone. Without this script the link beside it is a plain feed.
"use strict";

const WATCHED = "petals-health-watched";
const MAX_WATCHED = 100;

for (const link of document.querySelectorAll("a[data-watch]")) startWatch(link);

function startWatch(link) {
  const query = link.dataset.watch;
  const icon = document.querySelector('link[rel="icon"]');
  const quietIcon = icon.href;
  const title = document.querySelector("title");
  const button = document.createElement("button");
  const news = document.createElement("span");
  let source = null;
  let unread = 0;

  button.type = "button";
  news.setAttribute("role", "status");
  link.before(button, " ");
  link.after(" ", news);

  const watched = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(WATCHED) || "[]");
      return Array.isArray(kept) ? kept.filter((each) => typeof each === "string") : [];
    } catch {
      return []; // private windows may have no storage
    }
  };

  const keep = (on) => {
    const others = watched().filter((each) => each !== query);
    try {
      localStorage.setItem(WATCHED, JSON.stringify((on ? [...others, query] : others).slice(-MAX_WATCHED)));
    } catch {
      // It is watched until the page is left.
    }
  };

  // The page's own script sets the title anew with each snapshot.
  const mark = () => {
    const bare = title.textContent.replace(/^\(\d+\) /, "");
    const wanted = unread ? `(${unread}) ${bare}` : bare;
    if (title.textContent !== wanted) title.textContent = wanted;
    const shown = unread ? link.dataset.alertIcon : quietIcon;
    if (icon.getAttribute("href") !== shown) icon.setAttribute("href", shown);
  };
  new MutationObserver(mark).observe(title, { childList: true, characterData: true, subtree: true });

  const tell = (event) => {
    const change = JSON.parse(event.data);
    unread += 1;
    mark();
    news.textContent = `${change.title}. ${change.text}`;
    if (!("Notification" in window) || Notification.permission !== "granted") return;
    try {
      new Notification(change.title, { body: change.text, tag: change.id });
    } catch {
      // Some phones show notifications only from service workers: title and favicon have told.
    }
  };

  const set = (on) => {
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Watching" : "Watch";
    if (on && !source) {
      source = new EventSource(`/events?${query}`);
      source.addEventListener("change", tell);
    } else if (!on && source) {
      source.close();
      source = null;
      unread = 0;
      news.textContent = "";
      mark();
    }
  };

  button.addEventListener("click", () => {
    const on = source === null;
    keep(on);
    set(on);
    if (on && "Notification" in window && Notification.permission === "default") Notification.requestPermission();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    unread = 0;
    mark();
  });
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => {
    if (!event.persisted || !source) return;
    source = null;
    set(true);
  });
  set(watched().includes(query));
}
