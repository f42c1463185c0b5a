// A check that shows its stages while it runs. Without this script the page of the check itself waits for the verdict.
const CHECK = "/check";
const ASKED = /^(\/(?:ip4|ip6|dns|dns4|dns6)\/\S{1,300}\/p2p\/)?(Qm[1-9A-HJ-NP-Za-km-z]{44}|12D3Koo[1-9A-HJ-NP-Za-km-z]{45})$/;

// Whose check is asked for: that of a peer id, or of a multiaddr, which is dialled as it is. All other text is the server's to read.
function readAsked(text) {
  const [whole, address, peerId] = ASKED.exec(text.trim()) || [];
  return peerId ? { peerId, text: whole, query: address ? `?address=${encodeURIComponent(whole)}` : "" } : null;
}

function show(stages, stage) {
  const order = [...stages.children];
  const at = order.findIndex((step) => step.dataset.stage === stage);
  if (at < 0) return;
  order.forEach((step, index) => {
    step.className = index < at ? "done" : index === at ? "now" : "ahead";
    step.querySelector("em").textContent = index < at ? "done" : index === at ? "now" : "";
  });
  const step = order[at];
  document.getElementById("spoken").textContent = `${step.querySelector("b").textContent}: ${step.querySelector("span").textContent}`;
}

async function runCheck({ peerId, query }) {
  const main = document.getElementById("main");
  const fresh = document.getElementById("checking").content.cloneNode(true);
  const heading = document.createElement("h1");
  heading.textContent = `Checking …${peerId.slice(-6)}`;
  fresh.querySelector("[data-heading]").prepend(heading);
  const stages = fresh.querySelector(".steps");
  const keep = document.getElementById("checking");
  const spoken = document.getElementById("spoken");
  main.replaceChildren(fresh, keep, spoken);
  const url = `${CHECK}/${encodeURIComponent(peerId)}`;
  const events = new EventSource(`${url}/stages`);
  events.addEventListener("stage", (event) => show(stages, event.data));
  events.addEventListener("error", () => events.close());
  try {
    const response = await fetch(url + query, { headers: { Accept: "text/html" }, cache: "no-store" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    document.title = page.title;
    main.replaceChildren(...page.getElementById("main").children);
    history.replaceState(null, "", response.url);
    window.showTimes?.();
    const verdict = main.querySelector("[role=alert]") || main.querySelector("h1");
    verdict.tabIndex = -1;
    verdict.focus();
    document.getElementById("spoken").textContent = `${verdict.textContent}. ${verdict.nextElementSibling?.textContent || ""}`;
  } catch {
    location.replace(url + query);
  } finally {
    events.close();
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.(`a[href^="${CHECK}/"]`);
  const asked = link && !link.search && readAsked(decodeURIComponent(link.pathname.slice(CHECK.length + 1)));
  if (!asked || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  location.assign(`${CHECK}#${asked.text}`);
});

document.addEventListener("submit", (event) => {
  const target = event.submitter?.formAction || event.target.action;
  if (!document.getElementById("spoken") || new URL(target).pathname !== CHECK) return;
  const asked = readAsked(event.target.querySelector("input").value);
  if (!asked) return;
  event.preventDefault();
  location.assign(`${CHECK}#${asked.text}`); // the page of the form starts the check, at once where this is it
});

function startFromAddress() {
  const asked = readAsked(location.hash.slice(1));
  if (asked && document.getElementById("checking")) runCheck(asked);
}

addEventListener("popstate", () => { if (!location.hash) location.reload(); });
addEventListener("hashchange", startFromAddress);
startFromAddress();
