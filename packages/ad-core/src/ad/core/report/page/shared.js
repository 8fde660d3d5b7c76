
// What the pages have in common: elements from texts, numbers for people.

const data = JSON.parse(document.getElementById("data").textContent);

/** The element with an id. */
const at = (id) => document.getElementById(id);

/**
 * Make an element. Texts become text nodes: nothing in them is ever read as HTML.
 * @param {string} tag
 * @param {Object<string, string|boolean>} attributes
 * @param {...(Node|string)} children
 */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

/** The same for SVG. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
}

/** A metric in [0, 1], or a dash where it is not defined. */
const figure = (value) => (value === null ? "–" : value.toFixed(3));

/** A score with four digits that count. */
const short = (score) => String(Number(score.toPrecision(4)));

/** A share as a percentage. */
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

/** "1 picture", "2 pictures". */
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** A table from rows of texts, numbers and nodes; the first cell of a row is its heading. */
function table(headings, rows) {
  const cell = (content, place) =>
    place === 0 ? make("th", { scope: "row" }, content) : make("td", {}, content);
  return make("table", {},
    make("thead", {}, make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))));
}

/** A model's name, which may be long: it breaks between its options. */
const label = (row) => make("span", { class: "label" },
  ...row.label.split(/(?<=[[;,=])/).flatMap((part) => [part, make("wbr")]));

/** Pairs of a definition list. */
const pairs = (list) =>
  list.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
