
// The page of one run. `state.threshold` is the one thing that changes; `update` shows it.
// A picture is called defective if its score is above the threshold, as `ad` itself does it.

const kinds = data.kinds;
const pictures = data.scores.map((score, index) => ({
  index,
  score,
  name: data.names[index],
  kind: kinds[data.kindOf[index]],
  defective: kinds[data.kindOf[index]].defective,
}));
// Without test pictures the good ones that set the threshold in training are shown, or nothing.
const { shows } = data;
const tested = shows === "test";
const good = pictures.filter((picture) => !picture.defective);
const bad = pictures.filter((picture) => picture.defective);
const state = { threshold: saved ?? bestF1(), shown: PAGE, viewed: -1, colours: "heat" };

// --- what the threshold makes of pictures ------------------------------------------------------

/** What a picture is called: `found`, `missed`, `passed` or `alarm`. */
function verdict(picture, threshold = state.threshold) {
  const called = picture.score > threshold;
  if (picture.defective) return called ? "found" : "missed";
  return called ? "alarm" : "passed";
}

const WORDS = { found: "found", missed: "missed", passed: "passed", alarm: "false alarm" };
const isMistake = (name) => name === "missed" || name === "alarm";

/** How wrong a picture is: its distance to the threshold, negative on the right side. */
function wrongness(picture) {
  return picture.defective ? state.threshold - picture.score : picture.score - state.threshold;
}

function tally(of = pictures, threshold = state.threshold) {
  const counts = { found: 0, missed: 0, passed: 0, alarm: 0 };
  for (const picture of of) counts[verdict(picture, threshold)] += 1;
  return counts;
}

function bestF1() {
  let best = { value: -1, threshold: sorted.at(-1) ?? 0 };
  const ranked = [...pictures].sort((a, b) => b.score - a.score);
  const positives = bad.length;
  if (!positives) return best.threshold;
  let hits = 0;
  ranked.forEach((picture, place) => {
    hits += picture.defective ? 1 : 0;
    const tied = ranked[place + 1]?.score === picture.score;
    const value = (2 * hits) / (place + 1 + positives);
    if (!tied && value > best.value) best = { value, threshold: below(picture.score) };
  });
  return best.threshold;
}

/** Share with the interval in which 19 of 20 such samples have the true one (Wilson). */
function interval(part, whole) {
  const z = 1.96, share = part / whole;
  const middle = (share + (z * z) / (2 * whole)) / (1 + (z * z) / whole);
  const half = (z / (1 + (z * z) / whole)) *
    Math.sqrt((share * (1 - share)) / whole + (z * z) / (4 * whole * whole));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

function showScores() {
  const row = (name, own) => {
    const [right, wrong] = [false, true].map((mistake) =>
      own.filter((picture) => isMistake(verdict(picture)) === mistake).map(({ score }) => score));
    return { name, total: own.length, weight: 1, bars: [[name, right], ["mistake", wrong]] };
  };
  const rows = [...(good.length ? [row("good", good)] : []), ...(bad.length ? [row("defective", bad)] : [])];
  histogram(rows, `Scores of ${rows.map(({ name }) => name).join(" and ")} pictures; the table below has the counts.`);
}

// --- what follows from the threshold -----------------------------------------------------------

function showCounts() {
  const { found, missed, passed, alarm } = tally();
  for (const [id, value] of [["found", found], ["missed", missed], ["passed", passed], ["alarms", alarm]]) {
    at(id).textContent = value;
  }
  at("missed").classList.toggle("errors", missed > 0);
  at("alarms").classList.toggle("errors", alarm > 0);
  const rate = (title, part, whole, words) => {
    if (!whole) return [title, "not defined: none is called defective"];
    const [low, high] = interval(part, whole);
    const value = make("span", {}, make("b", {}, percent(part / whole)),
      ` ${part} of ${words}; 95 % interval ${percent(low)} to ${percent(high)}`);
    return [title, value];
  };
  at("rates").replaceChildren(...pairs(!tested
    ? [["False alarms to expect", `${shows === "good" ? "The threshold was set on these pictures, so how many are above it says nothing of new ones" : "The threshold was set on other pictures since"}. What it promises is said among the notes.`]]
    : [
      ...(bad.length ? [
        rate("Recall: defects found", found, found + missed, count(found + missed, "defective picture")),
        rate("Precision: real ones among those called defective", found, found + alarm, `${found + alarm} called defective`),
      ] : []),
      ...(good.length ? [rate("False-alarm rate", alarm, alarm + passed, count(alarm + passed, "good picture"))] : []),
    ]));
  const moved = saved !== null && state.threshold !== saved;
  at("moved").hidden = !moved && saved !== null;
  at("moved").textContent = moved
    ? `Moved from ${short(saved)}, which the saved model keeps. A threshold that is chosen by looking at ${tested ? "test pictures" : "pictures"} does better on them than on new ones.`
    : `The run has no threshold of its own. This one is ${bad.length ? "the best for" : "the highest score of"} these test pictures, and does better on them than on new ones.`;
  const errors = missed + alarm;
  at("slider").setAttribute("aria-valuetext",
    `${short(state.threshold)}: ${missed} missed, ${count(alarm, "false alarm")}`);
  return errors;
}

function showKinds() {
  const several = new Set(kinds.map((kind) => kind.category)).size > 1;
  const width = 200;
  const dots = (own) => {
    const svg = draw("svg", { class: "dots", viewBox: `0 0 ${width} 20`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const picture of own.slice(0, 300)) {
      svg.append(draw("rect", { class: picture.defective ? "defective" : "good", x: axis.share(picture.score) * (width - 2), y: 5, width: 1.6, height: 10 }));
    }
    const cut = axis.share(state.threshold) * (width - 2) + 0.8;
    svg.append(draw("line", { class: "cut", x1: cut, x2: cut, y1: 0, y2: 20 }));
    return svg;
  };
  const rows = kinds.map((kind) => {
    const own = pictures.filter((picture) => picture.kind === kind);
    const called = own.filter((picture) => picture.score > state.threshold).length;
    return [kindName(kind), own.length, called, kind.defective ? own.length - called : called,
      kind.auroc === null ? "–" : figure(kind.auroc), dots(own)];
  });
  at("kinds").replaceChildren(table(
    [several ? "category and kind" : "kind", "pictures", "called defective", "wrong", "AUROC against good", "scores"], rows));
}

function kindName(kind) {
  const several = new Set(kinds.map((one) => one.category)).size > 1;
  return several ? `${kind.category}: ${kind.group}` : kind.group;
}

// --- the gallery -------------------------------------------------------------------------------

/** What the gallery has of each picture, with what is known of it. */
const items = data.gallery.map((item) => ({ ...pictures[item.index], ...item }));

/** The gallery's pictures that were asked for, the most wrong first. */
function order() {
  const what = at("show").value, kind = at("kind").value;
  return items
    .filter(({ index }) => kind === "" || data.kindOf[index] === Number(kind))
    .filter((item) => {
      const name = verdict(item);
      return what === "all" || (what === "errors" ? isMistake(name) : name === what);
    })
    .sort((a, b) => wrongness(b) - wrongness(a) || a.index - b.index);
}

function badge(item) {
  const name = verdict(item);
  return { words: `${WORDS[name]}: ${item.kind.group}`, wrong: isMistake(name) };
}

function describe(item) {
  const name = verdict(item);
  const distance = Math.abs(item.score - state.threshold);
  const from01 = data.calibration === null ? "" : ` (${scaled(item.score).toFixed(2)} on the scale from 0 to 1)`;
  return [make("span", { class: `badge ${isMistake(name) ? "mistake" : "right"}` }, WORDS[name]),
    ` ${kindName(item.kind)}. Score ${short(item.score)}${from01}, ${short(distance)} ${item.score > state.threshold ? "above" : "below"} the threshold.`];
}

function galleryCount() {
  const noun = tested ? "test picture" : "such picture";
  const errors = pictures.filter((picture) => isMistake(verdict(picture))).length;
  const pictured = items.filter((item) => isMistake(verdict(item))).length;
  const all = items.length === pictures.length
    ? `All ${count(pictures.length, noun)} are here.`
    : `This file holds ${items.length} of ${pictures.length} ${noun}s: those that are hardest to get right, some of the clearest, and some of each kind. ${tested ? "The CSV lists" : "What is saved below has"} all.`;
  const wrong = errors
    ? `${count(errors, "picture")} ${errors === 1 ? "is" : "are"} on the wrong side of the threshold${pictured < errors ? `, ${pictured} of them are here` : ""}.`
    : "None is on the wrong side of the threshold.";
  return `${wrong} ${all}${data.without ? ` ${data.without}` : ""}`;
}

// --- the rest of the page ----------------------------------------------------------------------

function showFigures() {
  at("title").textContent = data.title;
  const { found, missed, passed, alarm } = tally();
  const finds = bad.length ? `finds ${found} of ${count(found + missed, "defective picture")}` : "";
  const calls = good.length ? `calls ${alarm} of ${count(passed + alarm, bad.length ? "good one" : "good picture")} defective` : "";
  const both = [finds, calls].filter((words) => words).join(" and ");
  at("lead").textContent = !tested ? data.lead
    : saved === null ? `${count(pictures.length, "test picture")}; no threshold, as nothing was held out.`
    : `At its threshold it ${both}${bad.length ? "" : "; no test picture is defective"}.`;
  at("notes").replaceChildren(...data.notes.map((text) => make("li", {}, text)));
  const known = data.figures.filter(({ value }) => value !== null);
  if (!known.length) at("figures-title").textContent = at("figures-link").textContent = "Notes";
  if (!tested) {
    at("gallery-title").textContent = "Good pictures, the highest scores first";
    at("tested-caption").textContent = "These good pictures at the threshold";
  }
  at("figures").replaceChildren(...known.map(({ title, meaning, value }) => make("div", {}, make("dt", {}, title),
      make("dd", { class: "value" }, figure(value)), make("dd", { class: "meaning" }, meaning))));
  at("resolution").textContent = pictures.length && data.figures.some(({ key, value }) => key.startsWith("pixel") && value !== null)
    ? `Maps and masks are compared at ${data.resolution === null ? "the size of each picture when it is cut into tiles" : `${data.resolution} pixels, the size at which the detector sees pictures`}.` : "";
  if (data.categories.length > 1) {
    at("categories").hidden = false;
    at("categories").append(table(["category", ...data.figures.map(({ title }) => title)],
      [...data.categories.map(({ name, figures }) => [name, ...figures.map(figure)]),
        ["mean", ...data.figures.map(({ value }) => figure(value))]]));
  }
}

function showMade() {
  at("command").textContent = data.command;
  if (data.command.includes("\n")) {
    at("command-words").textContent = "The same commands, one after the other, on the same data and "
      + "machine, make the same files. The threshold is that of the last one:";
  }
  at("times").append(...pairs(data.times ?? []));
  if (!data.times?.length) {
    at("times").append(make("div", {}, make("dd", {},
      "Not in this file, so that a repeated run has the same: see log.jsonl, or make the report again with ad report.")));
  }
  if (data.speeds) {
    at("speeds").hidden = false;
    at("speeds").append(make("h3", {}, "Speed"), make("p", { class: "small" }, data.speeds.title),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Speed in each engine" },
        table(["engine", "threads", "p50 ms", "p95 ms", "p99 ms", "pictures/s", "CPU ms", "MB", "start s"],
          data.speeds.rows)));
  }
  at("facts").append(...data.facts.map(({ title, facts }) =>
    make("div", {}, make("h3", {}, title), make("dl", { class: "facts" }, ...pairs(facts)))));
  if (data.roi) {
    at("facts").append(make("div", {}, make("h3", {}, "Region of interest"),
      make("p", { class: "small" }, "White is looked at, black is not."),
      make("img", { src: data.roi, alt: "White where pictures are looked at, black where they are not" })));
  }
}

function showNext() {
  const moved = pictures.length > 0 && state.threshold !== saved;
  const python = saved === null ? `finding.score > ${typed()}`
    : moved ? `ad.core.load("RUN", threshold=${typed()})` : 'ad.core.load("RUN")';
  const once = ["The same at the threshold that is set above, without keeping it",
    make("code", {}, `ad predict RUN PICTURE_OR_FOLDER --threshold ${typed()}`)];
  at("next").replaceChildren(...pairs([
    ["Verdicts and maps of new pictures", make("code", {}, "ad predict RUN PICTURE_OR_FOLDER")],
    ...(moved && saved !== null ? [once] : []),
    ...(tested ? [["The figures again, where the model is to run", make("code", {}, "ad evaluate RUN")]] : []),
    ...(pictures.length ? [["In Python, with the threshold as it is set above", make("code", {}, python)]] : []),
  ]));
}

/** What a spreadsheet opens; a text that it would take for a formula is quoted. */
function saveVerdicts() {
  const quote = (value) => {
    const text = /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : String(value);
    return `"${text.replaceAll('"', '""')}"`;
  };
  const rows = [["folder", "picture", "category", "kind", "truth", "score", "threshold", "verdict"],
    ...pictures.map((picture) => [data.root, picture.name, picture.kind.category, picture.kind.group,
      picture.defective ? "defective" : "good", picture.score, state.threshold, WORDS[verdict(picture)]])];
  const text = rows.map((row) => row.map(quote).join(",")).join("\r\n");
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: "verdicts.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- what people do ----------------------------------------------------------------------------

/** Show the threshold everywhere; the gallery is sorted anew only when it has come to rest. */
function update({ resting = true } = {}) {
  showThreshold();
  showScores();
  showCounts();
  showKeep();
  showKinds();
  showNext();
  if (resting) showGallery(); else showBadges();
}

function presets() {
  const lowest = bad.reduce((low, { score }) => Math.min(low, score), Infinity);
  const highest = good.reduce((high, { score }) => Math.max(high, score), -Infinity);
  return [
    ...(saved === null ? [] : [["As saved", saved]]),
    ...(bad.length ? [["Every defect found", below(lowest)]] : []),
    ...(good.length ? [["No false alarm", highest]] : []),
    ...(bad.length && good.length ? [["Best F1", bestF1()]] : []),
  ];
}

function addChoices() {
  const option = (value, words) => make("option", { value }, words);
  at("show").append(option("all", "all"), option("errors", "wrong ones"),
    ...(bad.length ? [option("missed", "missed defects"), option("found", "found defects")] : []),
    ...(good.length ? [option("alarm", "false alarms"), option("passed", "passed good ones")] : []));
  at("kind").append(option("", "all"), ...kinds.map((kind, place) => option(place, kindName(kind))));
  for (const id of ["show", "kind"]) {
    at(id).addEventListener("change", () => { state.shown = PAGE; showGallery(); });
  }
}

const has = {
  pictures: pictures.length > 0,
  maps: data.localises,
  masks: data.gallery.some(({ mask }) => mask !== null),
  outlines: data.outlines !== "",
  colours: data.gallery.some(({ own }) => own !== null),
  kinds: kinds.length > 1,
  good: good.length > 0,
  defective: bad.length > 0,
};
for (const element of document.querySelectorAll("[data-needs]")) element.hidden = !has[element.dataset.needs];
at("outline-words").textContent = data.outlines;
showFigures();
showMade();
showNext();
if (has.pictures) {
  addPresets(presets());
  addChoices();
  listenToThreshold(showScores);
  listenToGallery();
  at("save").addEventListener("click", saveVerdicts);
  update();
}
