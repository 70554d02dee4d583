// Start, keys, and renewal of a live page.

function showIndex(rows) {
  index = rows;
  for (const row of index) row.searched = `${row.id} ${row.source} ${row.text}`.toLowerCase();
  const place = first;
  find();
  first = place < found.length ? place : 0;
  showList();
}

function show(summary) {
  runs = summary.runs;
  showSummary(summary);
  showParts();
}

async function renew() {
  let summary, rows;
  try {
    summary = await fetched("summary");
    rows = await fetched("index");
    delete byId("about").dataset.lost;
  } catch (error) { // the server has ended, or cannot read the store: what was shown stays
    byId("about").dataset.lost = `not renewed: ${error.message}`;
  }
  if (summary) show(summary);
  if (rows) showIndex(rows);
  setTimeout(renew, RENEW_MS);
}

async function start() {
  form.elements.order.append(...Object.keys(ORDERS).map((name) => el("option", {}, name)));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    history.replaceState(null, "", address());
    find();
  });
  byId("earlier").addEventListener("click", () => turn(-ROWS));
  byId("later").addEventListener("click", () => turn(ROWS));
  addEventListener("hashchange", followAddress);
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !dialog.open) {
      event.preventDefault();
      form.elements.words.focus();
    } else if (dialog.open && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      const next = found[placeOf(shownRow) + (event.key === "ArrowLeft" ? -1 : 1)];
      if (next) location.hash = address(next.id);
    }
  });
  if (LIVE) await renew();
  else {
    show(await unpacked("summary"));
    showIndex(await unpacked("index"));
  }
  followAddress();
}

start();
