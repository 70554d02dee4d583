// Headline, curves and tables.

const COLOURS = ["--c1", "--c2", "--c3", "--c4"];
const STEPS = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
const drawn = [];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Means of a window of values, so that steps of few problems can be read; gaps stay gaps at both ends. */
function smooth(values, window) {
  return values.map((_, place) => {
    const near = values.slice(Math.max(0, place - window + 1), place + 1).filter((value) => value !== null);
    return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
  });
}

/** A figure with a plot of lines.
 *  lines: [{name, x: [...], y: [...], colour: number, dash}], x ascending; options: {x: name, range, time, points}. */
function chart(title, note, lines, options = {}) {
  lines = lines.filter((line) => line.y.some((value) => value !== null));
  if (!lines.length) return null;
  const box = el("div", { class: "plot" });
  const last = lines.map((line) => `${line.name} ${number(line.y[0])} to ${number(line.y.findLast((y) => y !== null))}`);
  const made = el("figure", {}, el("figcaption", {}, el("h3", {}, title), note && el("p", {}, note)),
    el("div", { role: "img", "aria-label": `${title}: ${last.join("; ")}` }, box));
  const data = lines.length === 1 ? [lines[0].x, lines[0].y]
    : uPlot.join(lines.map((line) => [line.x, line.y]));
  const series = [{ label: options.x || "step" }].concat(lines.map((line, place) => ({
    label: line.name,
    stroke: () => colour(COLOURS[(line.colour ?? place) % COLOURS.length]),
    width: 2,
    dash: line.dash ? [6, 4] : undefined,
    spanGaps: true,
    points: { show: options.points || line.x.length < 2 },
    paths: options.points ? () => null : undefined,
    value: (_, value) => number(value),
  })));
  const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { stroke: () => colour("--line") }, font: "12px system-ui, sans-serif" };
  const plot = () => new uPlot({
    width: box.clientWidth, height: 220, series, padding: [8, 8, 0, 0],
    cursor: { drag: { x: true, y: false } },
    scales: { x: { time: Boolean(options.time) }, y: { range: options.range } },
    axes: [options.x ? axis : { ...axis, incrs: STEPS }, { ...axis, size: 52 }],
    legend: { live: true },
  }, data, box);
  drawn.push({ box, plot, made: null });
  return made;
}

/** Plots need the width of their boxes, so they are drawn when these are in the page. */
function draw() {
  for (const one of drawn) {
    if (one.made || !one.box.isConnected || !one.box.clientWidth) continue;
    one.made = one.plot();
  }
}

function forget(within) {
  for (let place = drawn.length - 1; place >= 0; place -= 1) {
    if (!within.contains(drawn[place].box)) continue;
    drawn[place].made?.destroy();
    drawn.splice(place, 1);
  }
}

addEventListener("resize", () => {
  for (const { box, made } of drawn) if (made && box.clientWidth) made.setSize({ width: box.clientWidth, height: 220 });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(({ made }) => made?.redraw()));

/** Lines of named columns for each run, the second run dashed. */
function linesOf(summary, query, columns) {
  return summary.runs.flatMap((run, place) => {
    const rows = summary.curves[run.id][query];
    const window = Math.max(1, Math.round(rows.length / 25));
    return Object.entries(columns).map(([name, column], at) => ({
      name: name + runName(place, summary.runs.length),
      x: rows.map((row) => row.step),
      y: smooth(rows.map((row) => (typeof column === "function" ? column(row) : row[column])), window),
      colour: at,
      dash: place > 0,
    }));
  });
}

const SHARE = [0, 1];

function trainingCharts(summary) {
  const longest = Math.max(0, ...summary.runs.map((run) => summary.curves[run.id].accuracy.length));
  const window = Math.max(1, Math.round(longest / 25));
  const mean = window > 1 ? ` Means of ${window} steps.` : "";
  const count = summary.runs.length;
  const lines = (...given) => linesOf(summary, ...given);
  const scores = summary.runs.map((run, place) => {
    const rows = summary.scores.filter((row) => row.run_id === run.id).toSorted((a, b) => a.step - b.step);
    return { name: `held out${runName(place, count)}`, colour: 3, dash: place > 0,
      x: rows.map((row) => row.step), y: rows.map((row) => row.accuracy) };
  }).filter((line) => line.x.length && new Set(line.x).size === line.x.length);
  return [
    chart("Accuracy", `What the policy can do: originals have no hint.${mean}`,
      [...lines("accuracy", { originals: "originals", "with hints": "hinted", "all variants": "variants" }), ...scores],
      { range: SHARE }),
    chart("Reward in training", `Of all rollouts, so it rises with easier prompts too.${mean}`,
      lines("accuracy", { reward: "reward" })),
    chart("Reliance on hints", `Share of the rollouts whose prompt gave steps of a solution.${mean}`,
      lines("accuracy", { "with hints": "share_hinted" }), { range: SHARE }),
    ...summary.runs.map((run, place) => silentChart(summary, run, place, mean)),
    ...summary.runs.map((run, place) => heatMap(summary.curves[run.id].levels, runName(place, count))),
    chart("Length of completions", `Mean tokens of right and of wrong ones.${mean}`,
      lines("lengths", { right: "tokens_right", wrong: "tokens_wrong" })),
    chart("Truncated completions", `Share of the logged ones.${mean}`, lines("lengths", { truncated: "truncated" }),
      { range: SHARE }),
    chart("Seconds of a step", `Without evaluations and checkpoints.${mean}`, lines("steps", { seconds: "seconds" })),
    chart("Tokens of a step", `Of all completions.${mean}`, lines("steps", { tokens: "completion_tokens" })),
  ];
}

function silentChart(summary, run, place, mean) {
  const share = (name) => (row) => row[name] / row.groups;
  return chart(`Silent groups by cause${runName(place, summary.runs.length)}`, `Share of all groups.${mean}`,
    linesOf({ runs: [run], curves: summary.curves }, "silent_steps", { "all wrong": share("all_wrong"),
      "truncated": share("truncated"), "no answer": share("no_answer"),
      "all right": share("all_right"), "equal rewards": share("equal_rewards"), "no reward": share("no_reward") })
      .filter((line) => line.y.some((value) => value > 0)),
    { range: SHARE });
}

/** Problems by level of difficulty (rows, the hardest on top) and step (columns). */
function heatMap({ steps, counts }, name) {
  if (!steps.length) return null;
  const [width, height, left] = [600, 200, 24];
  const [w, h] = [(width - left) / steps.length, height / 9];
  const most = Math.max(...counts.flat());
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const cells = counts.flatMap((column, x) => column.map((problems, level) => problems && svg("rect", {
    x: left + x * w, y: (8 - level) * h, width: w + 0.3, height: h, "fill-opacity": 0.12 + 0.88 * Math.sqrt(problems / most),
  }, svg("title", {}, `${x ? `step ${steps[x]}` : "before"}, level ${level + 1}: ${problems} problems`))).filter(Boolean));
  const levels = [...Array(9).keys()].map((level) =>
    svg("text", { x: left - 8, y: (8.5 - level) * h + 4, "text-anchor": "end" }, String(level + 1)));
  const ends = [["start", left, "before"], ["end", width, `step ${steps.at(-1)}`]].map(([anchor, x, text]) =>
    svg("text", { x, y: height + 16, "text-anchor": anchor }, text));
  const mean = (column) => number(column.reduce((sum, n, level) => sum + n * (level + 1), 0) / column.reduce((a, b) => a + b));
  const words = `mean level ${mean(counts[0])} before, ${mean(counts.at(-1))} at the end`;
  return el("figure", {},
    el("figcaption", {}, el("h3", {}, `Live difficulty${name}`),
      el("p", {}, `Problems at each level, 1 easiest to 9 hardest: ${words}.`)),
    svg("svg", { viewBox: `0 0 ${width} ${height + 20}`, class: "heat", role: "img", "aria-label": `Live difficulty: ${words}` },
      svg("g", { class: "levels" }, ...levels, ...ends), ...cells));
}

// --- curation

function curationCharts(summary) {
  const rows = summary.store_rows;
  const figure = (title, note, name) => rows[name].length && el("figure", { class: "wide" },
    el("figcaption", {}, el("h3", {}, title), note && el("p", {}, note)),
    tableOf(Object.keys(rows[name][0]), rows[name].map(Object.values), title));
  return [
    figure("Acceptance by kind", "The share is of those decided.", "variants"),
    figure("Why variants were not accepted", "With an example of each reason.", "reasons"),
    offsetsChart(summary.offsets),
    figure("Offsets by kind", "Designed against measured, in levels.", "offsets"),
    figure("Checks", null, "checks"),
    rateChart(summary.rate),
    costChart(summary.rate),
    figure("Cost by purpose and model", null, "calls"),
    figure("Accepted variants of a problem", null, "supply"),
  ];
}

function offsetsChart(points) {
  const kinds = [...new Set(points.map(([kind]) => kind))];
  const lines = kinds.map((kind, place) => {
    const own = points.filter((point) => point[0] === kind);
    return { name: kind, colour: place, x: own.map((point) => point[1]), y: own.map((point) => point[2]) };
  });
  // Designed offsets repeat, and uPlot takes a value of x once: a little apart they are all seen.
  for (const line of lines) line.x.forEach((x, place) => { line.x[place] = x + place * 1e-5; });
  return chart("Designed and measured offsets", "A point is a variant; below 0 it is easier than its problem.",
    lines, { x: "designed", points: true });
}

/** Rows of minutes in at most 200 columns. */
function binned(rows) {
  const first = rows[0][0];
  const width = 60 * Math.max(1, Math.ceil((rows.at(-1)[0] - first) / 60 / 200));
  const bins = new Map();
  for (const [time, ...values] of rows) {
    const at = first + Math.floor((time - first) / width) * width;
    const bin = bins.get(at) || [0, 0, 0];
    bins.set(at, bin.map((sum, place) => sum + (values[place] || 0)));
  }
  return { minutes: width / 60, x: [...bins.keys()], bins: [...bins.values()] };
}

function rateChart(rows) {
  if (!rows.length) return null;
  const { minutes, x, bins } = binned(rows);
  const rate = (place) => bins.map((bin) => bin[place] / minutes);
  return chart("Rate of the teacher", "Requests per minute.", [{ name: "requests", x, y: rate(0) },
    { name: "failed", x, y: rate(1) }], { x: "time", time: true });
}

function costChart(rows) {
  if (!rows.some((row) => row[3])) return null;
  const { x, bins } = binned(rows);
  let sum = 0;
  return chart("Cost of the teacher", "Sum of dollars so far, of models with a known price.",
    [{ name: "dollars", x, y: bins.map((bin) => (sum += bin[2])) }], { x: "time", time: true });
}

// --- the whole summary

const filled = new Map();
/** Make the figures of a part anew where what they show has changed. */
function fill(id, shows, make) {
  const text = JSON.stringify(shows);
  if (filled.get(id) === text) return;
  filled.set(id, text);
  const place = byId(id).querySelector(".charts");
  forget(place);
  place.replaceChildren(...make().filter(Boolean));
  byId(id).hidden = !place.childElementCount;
}

function showSummary(summary) {
  const several = summary.runs.length > 1;
  document.querySelector("h1").textContent = summary.title || `Store ${summary.store}`;
  byId("about").replaceChildren(...summary.runs.map((run, place) => el("span", { class: "run" },
    several && el("b", {}, LETTERS[place]), ` ${run.id}`,
    run.outcome && ` · ${run.model || "model unknown"} · ${run.outcome} · started ${run.started}`)),
    el("span", { class: "made" }, summary.made ? `as of ${summary.made}` : ""));
  if (!summary.curves) return;
  byId("headline").hidden = !summary.headline.length && !summary.next.length;
  byId("headline").querySelector("dl").replaceChildren(...summary.headline.map((one) => el("div", {},
    el("dt", {}, one.name),
    ...one.values.map((value, place) => el("dd", { class: "value" },
      one.values.length > 1 && el("b", {}, LETTERS[place] + " "), value)),
    el("dd", {}, one.note))));
  byId("next").replaceChildren(...(summary.next.length ? [el("h3", {}, "What to do next"),
    el("ul", {}, summary.next.map((step) => el("li", {}, `${step.why} `, el("code", {}, step.command))))] : []));
  fill("training", [summary.curves, summary.scores], () => trainingCharts(summary));
  fill("curation", [summary.store_rows, summary.offsets, summary.rate], () => curationCharts(summary));
  showTables(summary.tables);
  draw();
}

function showTables(tables) {
  byId("tables").hidden = !tables.length;
  byId("tables").replaceChildren(el("h2", {}, "Every table"), ...tables.map((one) =>
    el("details", {}, el("summary", {}, `${one.title} (${one.all.toLocaleString("en")})`),
      tableOf(one.columns, one.rows, one.title),
      one.rows.length < one.all && el("p", {}, `The first ${one.rows.length} rows; the query has all.`),
      el("pre", { tabindex: 0 }, one.sql))));
}

/** Links to the parts that are there. */
function showParts() {
  document.querySelector("nav").replaceChildren(...[...document.querySelectorAll("main > section:not([hidden])")].map(
    (part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
}
