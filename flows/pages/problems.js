// The list of problems, and one problem with its variants and rollouts.

const ROWS = 25;
const ORDERS = {
  "rollouts first": null,
  "hardest first": (a, b) => (b.after ?? b.label ?? -1) - (a.after ?? a.label ?? -1),
  "easiest first": (a, b) => (a.after ?? a.label ?? 99) - (b.after ?? b.label ?? 99),
  "most changed first": (a, b) => Math.abs((b.after ?? 0) - (b.before ?? 0)) - Math.abs((a.after ?? 0) - (a.before ?? 0)),
  "fewest accepted first": (a, b) => a.accepted - b.accepted,
};
const COLUMNS = ["problem", "question", "label", "live", "accepted", "rollouts"];

const form = document.querySelector("form");
// In the order of the bits of `row.has`.
const [KINDS, STATUSES] = ["kind", "status"].map((name) =>
  [...form.elements[name].options].slice(1).map((option) => option.value));
let index = [];
let found = [];
let runs = [];
let first = 0;

function chosen(name) {
  return form.elements[name].value;
}

/** Whether a problem has a variant of the chosen kind and status. */
function hasVariant(row) {
  const wanted = (name, all) => (chosen(name) ? [all.indexOf(chosen(name))] : all.keys());
  if (!chosen("kind") && !chosen("status")) return true;
  return [...wanted("kind", KINDS)].some((kind) =>
    [...wanted("status", STATUSES)].some((status) => row.has & (1 << (kind * STATUSES.length + status))));
}

function find() {
  const words = chosen("words").toLowerCase().split(/\s+/).filter(Boolean);
  found = index.filter((row) => words.every((word) => row.searched.includes(word)) && hasVariant(row));
  const order = ORDERS[chosen("order")];
  if (order) found.sort(order);
  first = 0;
  showList();
}

function showList() {
  const count = found.length.toLocaleString("en");
  byId("count").textContent = `${count} of ${index.length.toLocaleString("en")} problems`;
  byId("list").tHead.replaceChildren(el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col" }, name))));
  byId("list").tBodies[0].replaceChildren(...found.slice(first, first + ROWS).map((row) => el("tr", {},
    el("td", {}, el("a", { href: address(row.id) }, row.id)),
    el("td", { class: "question" }, row.text.replaceAll(IMAGE, "")),
    el("td", { class: "number" }, number(row.label)),
    el("td", { class: "number" }, row.after === null ? "–" : `${number(row.before)} → ${number(row.after)}`),
    el("td", { class: "number" }, `${row.accepted} of ${row.variants}`),
    el("td", { class: "number" }, `${row.rollouts}${row.logged ? ` (${row.logged} with words)` : ""}`))));
  byId("where").textContent = found.length ? `${first + 1} to ${Math.min(first + ROWS, found.length)} of ${count}` : "none";
  byId("earlier").disabled = first === 0;
  byId("later").disabled = first + ROWS >= found.length;
}

/** The place of a problem in the list; -1 if the search does not find it. A renewal makes all rows anew. */
function placeOf(row) {
  return found.findIndex((one) => one.id === row.id);
}

function turn(rows) {
  first = Math.max(0, first + rows);
  showList();
}

// The choice is part of the address, so that a link shows the same: #kind=image&status=accepted&problem=ID
function address(problem) {
  const parts = ["words", "kind", "status"].filter(chosen).map((name) => [name, chosen(name)]);
  return `#${new URLSearchParams(problem ? [...parts, ["problem", problem]] : parts)}`;
}

function followAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const name of ["words", "kind", "status"]) if (wanted.has(name)) form.elements[name].value = wanted.get(name);
  if ([...wanted.keys()].some((name) => name !== "problem" && form.elements[name])) find();
  const row = wanted.has("problem") && index.find((one) => one.id === wanted.get("problem"));
  if (row) showProblem(row);
  else if (dialog.open) dialog.close();
}

// --- one problem

const dialog = byId("problem");
let shownRow = null;

async function showProblem(row) {
  const known = await detailsOf(row);
  const place = placeOf(row);
  const step = (to, text) => el("button", { type: "button", disabled: !found[to],
    onclick: () => { location.hash = address(found[to].id); } }, text);
  forget(dialog);
  dialog.replaceChildren(
    el("header", {}, el("h2", { id: "problem-title", tabindex: -1 }, row.id), el("span", { class: "soft" }, `${row.source}, ${row.split}`),
      el("span", { class: "buttons" }, step(place - 1, "Previous"), step(place + 1, "Next"),
        el("button", { type: "button", onclick: () => dialog.close() }, "Close"))),
    ...(known ? problemParts(known) : [el("p", {}, row.text),
      el("p", {}, "This page has no room for its variants and rollouts: "),
      el("code", {}, `diva show ${row.id} --html FILE --store DIR`)]));
  shownRow = row;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("problem-title").focus();
  draw();
}

dialog.addEventListener("close", () => {
  forget(dialog);
  dialog.replaceChildren();
  const row = shownRow;
  shownRow = null;
  if (new URLSearchParams(location.hash.slice(1)).has("problem")) history.replaceState(null, "", address());
  [...document.querySelectorAll("#list a")].find((link) => link.textContent === row?.id)?.focus();
});

function problemParts(known) {
  const variants = known.variants.filter((one) =>
    (!chosen("kind") || one.kind === chosen("kind")) && (!chosen("status") || one.status === chosen("status")));
  const accepted = variants.filter((one) => one.status === "accepted" || one.status === chosen("status"));
  const others = variants.filter((one) => !accepted.includes(one));
  const hidden = known.variants.length - variants.length;
  return [
    card(known, { title: "original", status: "original" }, known),
    difficultyChart(known.difficulty),
    ...accepted.map((one) => card(one, one, known)),
    others.length && el("details", {}, el("summary", {}, `Variants that are not accepted: ${others.length}`),
      others.map((one) => card(one, one, known))),
    hidden && el("p", { class: "soft" }, `Not shown, of another kind or status: ${hidden}.`),
    !known.variants.length && el("p", { class: "soft" }, "No variants yet."),
  ].filter(Boolean);
}

function difficultyChart(events) {
  const lines = runs.map((_, place) => {
    const own = events.filter((event) => event[0] === place);
    // It begins with the difficulty before the first visit.
    const x = own.length ? [own[0][1], ...own.map((event) => event[1] + 1)] : [];
    const y = own.length ? [own[0][2], ...own.map((event) => event[3])] : [];
    return { name: `difficulty${runName(place, runs.length)}`, x, y, colour: place };
  });
  return chart("Live difficulty", "After each visit, 1 easiest to 9 hardest.", lines, { range: [1, 9] });
}

/** A question beside what training made of it. */
function card(one, { title, status, reason }, problem) {
  return el("article", { class: status },
    el("div", { class: "asked" },
      el("h3", {}, title, status !== "original" && el("span", { class: "status" }, status)),
      reason && el("p", { class: "reason" }, reason),
      one.images.map((source, place) =>
        el("img", { src: source, alt: `image ${place + 1} of ${title}`, loading: "lazy" })),
      one.note && el("p", { class: "soft" }, one.note),
      one.text === null ? el("p", { class: "soft" }, "text as in the original") : prose(one.text),
      one === problem && one.options.length > 0 && el("ol", { type: "A" }, one.options.map((text) => el("li", {}, prose(text)))),
      one.hint?.length > 0 && el("ol", { class: "hint", "aria-label": "think steps given" },
        one.hint.map((text) => el("li", {}, prose(text)))),
      one === problem && one.solution.length > 0 && el("details", {}, el("summary", {}, "Worked solution"),
        el("ol", {}, one.solution.map((text) => el("li", {}, prose(text))))),
      el("ul", { class: "facts" }, one.facts.map((fact) => el("li", {}, fact)),
        (one.checks || []).map(([passed, words]) =>
          el("li", { class: passed === null ? "undecided" : passed ? "passed" : "failed" }, words)))),
    (one.rollouts || one.groups) && el("div", { class: "answered" }, training(one)));
}

function training({ id, rollouts = [], groups = [], prompts = [] }) {
  const of = (run) => (runs.length > 1 ? `run ${LETTERS[run]}, ` : "");
  return [
    el("h4", {}, "In training"),
    groups.length > 0 && el("details", {},
      el("summary", {}, `Groups: ${groups.length}, silent: ${groups.filter((group) => group[4]).length}`),
      tableOf([...(runs.length > 1 ? ["run"] : []), "step", "slot", "accuracy", "silent", "rewards"],
        groups.map(([run, step, slot, accuracy, why, rewards]) =>
          [...(runs.length > 1 ? [LETTERS[run]] : []), step, slot, accuracy, why, rewards.map((r) => number(r)).join(" ")]),
        `Groups of ${id}`)),
    ...prompts.map(([run, style, prompt, opening]) => el("details", {},
      el("summary", {}, `Prompt as given (${of(run)}${style})`), el("pre", { tabindex: 0 }, prompt + opening))),
    ...rollouts.map((rollout) => rolloutOf(rollout, of)),
    groups.length > 0 && !rollouts.length && el("p", { class: "soft" }, "The words of its rollouts were not logged (--log_rollouts), or had no room in this page."),
  ].filter(Boolean);
}

function rolloutOf([run, step, sample, reward, accuracy, advantage, tokens, finish, outcome, answer, how, parts, text, length], of) {
  const mark = accuracy === 1 ? "right" : accuracy === 0 ? "wrong" : accuracy === null ? "not judged" : number(accuracy);
  const made = el("details", { class: "rollout" }, el("summary", {},
    el("b", { class: accuracy === 1 ? "passed" : accuracy === 0 ? "failed" : "undecided" }, mark),
    ` ${of(run)}step ${step}, rollout ${sample}: reward ${number(reward)}, advantage ${signed(advantage)}, ${tokens} tokens` +
    (finish === "truncated" ? ", truncated" : "")));
  // A page may have thousands of them: what they say is made when one is opened.
  made.addEventListener("toggle", () => made.append(el("div", {},
    el("p", { class: "soft" }, [outcome && `graded ${outcome.replaceAll("_", " ")}`, answer && `answer ${answer}`, how, parts]
      .filter(Boolean).join(" · ")),
    prose(text), length > text.length && el("p", { class: "soft" }, `… ${length - text.length} more characters`))), { once: true });
  return made;
}
