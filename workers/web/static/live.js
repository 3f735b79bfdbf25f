// Refreshes the parts of a page that change while a run is at work. Without it the page is the same, but stands still.
"use strict";

(() => {
  const page = document.querySelector("[data-live]");
  if (!page) return;
  const told = document.getElementById("live-state");
  let every = Number(page.dataset.every) || 15000;

  const refresh = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(page.dataset.live, { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (answer.status === 401) return void location.reload();
        if (!answer.ok) throw new Error(String(answer.status));
        replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
        if (told) told.textContent = "";
      } catch {
        if (told && !told.textContent) told.textContent = `No answer since ${new Date().toLocaleTimeString()}; the figures are older.`;
      }
    }
    setTimeout(refresh, every);
  };

  const replace = (fresh) => {
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const old = document.getElementById(part.id);
      if (part.dataset.every) every = Number(part.dataset.every);
      // Nobody's focus is taken away.
      if (old && !old.contains(document.activeElement)) old.replaceWith(document.adoptNode(part));
    }
  };

  setTimeout(refresh, every);
})();
