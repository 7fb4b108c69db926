// Makes the page live. Without it everything is there all the same: it only saves reloading.
"use strict";
(() => {
  const REFRESH_MS = 4000;
  const liveness = document.getElementById("liveness");
  const say = (text) => { if (liveness) { liveness.hidden = false; liveness.textContent = text; } };

  // Fragments: the same page is fetched again, and what is marked as live is put in place where it differs.
  const live = document.querySelectorAll("[data-live]");
  let failures = 0;
  const refresh = async () => {
    const busy = document.activeElement;
    try {
      const answer = await fetch(location.href, { headers: { "x-live": "1", accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(old.id);
        // What somebody is working in is left alone.
        if (!now || (busy && busy !== document.body && old.contains(busy))) continue;
        if (old.querySelector("details[open]")) continue;
        if (old.outerHTML !== now.outerHTML) old.replaceWith(document.adoptNode(now));
      }
      failures = 0;
      say("live");
    } catch {
      failures += 1;
      say("not reached; tried again");
    }
  };
  const loop = async () => {
    if (document.visibilityState === "visible") await refresh();
    setTimeout(loop, REFRESH_MS * Math.min(1 + failures, 8));
  };
  if (live.length > 0) {
    setTimeout(loop, REFRESH_MS);
    document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") refresh(); });
  }

  // Tails: rows come ready made from the server, escaped there. A lost connection resumes by the last event's id.
  for (const table of document.querySelectorAll("table[data-tail]")) {
    const { tail, kind, user, most } = table.dataset;
    const query = new URLSearchParams({ after: tail, kind, user });
    const body = table.tBodies[0];
    const stream = new EventSource("/tail/stream?" + query);
    stream.onmessage = (event) => {
      const holder = document.createElement("template");
      holder.innerHTML = event.data;
      const row = holder.content.firstElementChild;
      if (!row) return;
      row.classList.add("new");
      body.prepend(row);
      while (body.rows.length > Number(most)) body.lastElementChild.remove();
      const empty = table.parentElement.parentElement.querySelector("[data-tail-empty]");
      if (empty) empty.remove();
    };
    stream.onopen = () => say("live");
    stream.onerror = () => say("not reached; tried again");
    addEventListener("pagehide", () => stream.close());
  }
})();
