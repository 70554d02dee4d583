"use strict";
// Data and helpers. All texts reach the page as text nodes: nothing of a data set is ever parsed as HTML.

const LIVE = "live" in document.body.dataset;
const RENEW_MS = 3000;

/** An element with attributes, listeners (on...) and children; null and false are left out. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

// Base 85 as Python's base64.b85encode, with a comma for "<": five letters are four bytes.
const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
const DIGITS = new Uint8Array(128);
[...ALPHABET].forEach((letter, digit) => { DIGITS[letter.charCodeAt(0)] = digit; });

function bytesOf(text) {
  const bytes = new DataView(new ArrayBuffer(4 * Math.ceil(text.length / 5)));
  for (let place = 0; place < text.length; place += 5) {
    let value = 0;
    for (let next = place; next < place + 5; next += 1) {
      value = value * 85 + (next < text.length ? DIGITS[text.charCodeAt(next)] : 84);
    }
    bytes.setUint32((place / 5) * 4, value);
  }
  return new Uint8Array(bytes.buffer, 0, bytes.byteLength - ((5 - (text.length % 5)) % 5));
}

/** A value of the page by name: compressed JSON in base 85. */
async function unpacked(name) {
  const stream = new Blob([bytesOf(byId(name).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** The same from the server of a live page; undefined where it has not changed since the last call. */
const versions = new Map();
async function fetched(name) {
  const answer = await fetch(name, { cache: "no-store", headers: { "If-None-Match": versions.get(name) || "" } });
  if (answer.status === 304) return undefined;
  if (!answer.ok) throw new Error(await answer.text());
  versions.set(name, answer.headers.get("ETag"));
  return answer.json();
}

const packs = new Map();
/** A problem's part of a pack. */
async function fromPack(name, row) {
  if (!packs.has(name)) packs.set(name, unpacked(name));
  return (await packs.get(name)).find((one) => one.id === row.id);
}

/** All that is known of a problem, by its row of the index; null where the page does not hold it. */
async function detailsOf(row) {
  if (LIVE) {
    const name = `problem?id=${encodeURIComponent(row.id)}`;
    versions.delete(name);
    return fetched(name);
  }
  if (row.pack === undefined) return null;
  const known = await fromPack(`pack-${row.pack}`, row);
  if (row.words !== undefined) {
    const words = await fromPack(`words-${row.words}`, row);
    for (const asked of [known, ...known.variants]) Object.assign(asked, words.of[asked.id]);
  }
  return known;
}

const LETTERS = ["A", "B", "C", "D"];
/** How a run is called where there are several. */
function runName(number, count) {
  return count > 1 ? ` (${LETTERS[number] || number + 1})` : "";
}

function number(value, digits = 3) {
  return value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en");
}

function signed(value) {
  return value === null || value === undefined ? "–" : `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
}

/** A table in a box that scrolls by itself, also by keyboard. */
function tableOf(columns, rows, label) {
  const cell = (value) =>
    el("td", { class: typeof value === "number" ? "number" : null },
      value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", {},
      el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name.replaceAll("_", " "))))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
}

// --- texts with formulas

const FORMULA = new RegExp([
  String.raw`\$\$([\s\S]+?)\$\$`,
  String.raw`\\\[([\s\S]+?)\\\]`,
  String.raw`(\\begin\{(align|aligned|equation|gather|array|cases|pmatrix|bmatrix|matrix)\*?\}[\s\S]+?\\end\{\4\*?\})`,
  String.raw`\\\(([\s\S]+?)\\\)`,
  // As pandoc: prices such as "$5 and $6" are no formula.
  String.raw`(?<![\\$\w])\$(?=\S)((?:[^$\\\n]|\\.)+?)(?<=\S)\$(?![\w$])`,
  String.raw`(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})`,
].join("|"), "g");
const IMAGE = /<image(\d*)>/g;

/** A text with its formulas as MathML and the places of its images. */
function prose(text, attributes = {}) {
  const made = el("div", { class: "prose", ...attributes });
  let end = 0;
  for (const found of text.matchAll(FORMULA)) {
    made.append(...withoutPlaceholders(text.slice(end, found.index)));
    const [whole, dollars, brackets, environment, , round, dollar, boxed] = found;
    const block = dollars ?? brackets ?? environment;
    const place = el("span", { class: block === undefined ? null : "block" });
    try {
      katex.render(block ?? round ?? dollar ?? boxed, place,
        { output: "mathml", displayMode: block !== undefined, strict: "ignore", maxExpand: 200, maxSize: 20 });
    } catch {
      place.textContent = whole; // it is no formula, or one that KaTeX cannot read
    }
    made.append(place);
    end = found.index + whole.length;
  }
  made.append(...withoutPlaceholders(text.slice(end)));
  return made;
}

function withoutPlaceholders(text) {
  return text.split(IMAGE).map((piece, place) =>
    place % 2 ? el("span", { class: "chip" }, `image${piece && " "}${piece}`) : piece);
}
