// Refreshes what is on the screen when the coordinator says that something
// happened, and now and then for the charts. Without it the pages are the same.
"use strict";
(() => {
  const main = document.getElementById("main");
  const lamp = document.getElementById("live");
  if (!lamp || !window.EventSource) return;

  let busy = false, again = false, timer = 0;

  // A page in use is left alone: open details, a focused field, a selection.
  const inUse = () =>
    main.querySelector("details[open]") ||
    (main.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT|BUTTON)$/.test(document.activeElement.tagName)) ||
    String(window.getSelection()).length > 0;

  async function refresh() {
    if (busy) { again = true; return; }
    if (document.hidden || inUse()) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) { location.reload(); return; }
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById("main");
        if (fresh && !inUse()) {
          const focus = document.activeElement && main.contains(document.activeElement) && document.activeElement.getAttribute("href");
          main.replaceChildren(...fresh.childNodes);
          document.title = page.title;
          if (focus) {
            const link = [...main.querySelectorAll("a")].find((a) => a.getAttribute("href") === focus);
            if (link) link.focus({ preventScroll: true });
          }
        }
      }
    } catch { /* the coordinator is away: EventSource keeps trying and says so */ }
    busy = false;
    if (again) { again = false; soon(); }
  }

  function soon() {
    if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, 400);
  }

  // One connection, and none from a page that was left: browsers allow six a
  // server, and keep pages for the way back.
  let events = null;
  function listen() {
    events = new EventSource("/events");
    events.onopen = () => show("live on", "live");
    events.onmessage = soon;
    events.onerror = () => show("live off", "reconnecting");
  }
  function show(name, text) {
    lamp.hidden = false;
    lamp.className = name;
    lamp.textContent = text;
  }
  window.addEventListener("pagehide", () => { if (events) events.close(); events = null; });
  window.addEventListener("pageshow", () => { if (!events) { listen(); } });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, 5000);
})();
