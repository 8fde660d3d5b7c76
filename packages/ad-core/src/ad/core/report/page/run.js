
// The page of one run. `state.threshold` is the one thing that changes; `update` shows it.
// A picture is called defective if its score is above the threshold, as `ad` itself does it.

const PAGE = 24; // pictures that are shown at first, and more at each press of the button
const STEPS = 1000; // of the slider

const kinds = data.kinds;
const pictures = data.scores.map((score, index) => ({
  index,
  score,
  name: data.names[index],
  kind: kinds[data.kindOf[index]],
  defective: kinds[data.kindOf[index]].defective,
}));
const sorted = [...new Set(data.scores)].sort((a, b) => a - b);
const saved = data.calibration?.threshold ?? null;
const axis = makeAxis();
const state = { threshold: saved ?? bestF1(), shown: PAGE, viewed: -1 };
const cards = new Map();

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

/** Between a score and the next lower one, so that neither is on the edge. */
function below(score) {
  const place = sorted.indexOf(score);
  return place > 0 ? (sorted[place - 1] + score) / 2 : score - axis.pad;
}

function bestF1() {
  let best = { value: -1, threshold: sorted.at(-1) ?? 0 };
  const ranked = [...pictures].sort((a, b) => b.score - a.score);
  const positives = ranked.filter((picture) => picture.defective).length;
  let hits = 0;
  ranked.forEach((picture, place) => {
    hits += picture.defective ? 1 : 0;
    const tied = ranked[place + 1]?.score === picture.score;
    const value = (2 * hits) / (place + 1 + positives);
    if (!tied && value > best.value) best = { value, threshold: below(picture.score) };
  });
  return best.threshold;
}

/**
 * The threshold in few digits, which calls every picture here what the threshold itself calls it.
 * It keeps off the scores beside it: those come out a little otherwise in another batch.
 */
function typed() {
  const low = sorted.findLast((score) => score <= state.threshold) ?? -Infinity;
  const high = sorted.find((score) => score > state.threshold) ?? Infinity;
  const away = Math.min((high - low) / 10, axis.pad / 20);
  const wanted = Math.max(low + away, Math.min(high - away, state.threshold));
  for (let digits = 4; digits < 17; digits += 1) {
    const rounded = Number(wanted.toPrecision(digits));
    if (rounded >= low + away / 2 && rounded <= high - away / 2) return rounded;
  }
  return wanted;
}

/** Share with the interval in which 19 of 20 such samples have the true one (Wilson). */
function interval(part, whole) {
  const z = 1.96, share = part / whole;
  const middle = (share + (z * z) / (2 * whole)) / (1 + (z * z) / whole);
  const half = (z / (1 + (z * z) / whole)) *
    Math.sqrt((share * (1 - share)) / whole + (z * z) / (4 * whole * whole));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

// --- the axis of scores ------------------------------------------------------------------------

/**
 * The scores the plot and slider cover. Scores far above the threshold would press all others
 * into one bar, so the axis ends at five times what lies below it.
 */
function makeAxis() {
  const low = sorted[0] ?? 0, high = sorted.at(-1) ?? 1;
  const middle = data.calibration?.threshold ?? high;
  const reach = Math.min(high, middle > low ? low + 5 * (middle - low) : high);
  const top = Math.max(reach, middle);
  const pad = (top - low || Math.abs(top) || 1) * 0.02;
  const from = low - pad, to = top + pad;
  return {
    from, to, pad, cut: high > to,
    share: (score) => Math.min(1, Math.max(0, (score - from) / (to - from))),
    score: (share) => from + share * (to - from),
  };
}

function histogram() {
  const width = Math.max(280, Math.min(at("plot").clientWidth || 800, 1200));
  const inset = 8; // half the slider's thumb: the line stands above it
  const bins = width < 500 ? 28 : 56;
  const top = 22, tall = 84, gap = 20;
  const x = (score) => inset + axis.share(score) * (width - 2 * inset);
  const rows = [false, true].map((defective) => {
    const row = Array.from({ length: bins }, () => ({ right: 0, wrong: 0 }));
    for (const picture of pictures) {
      if (picture.defective !== defective) continue;
      const bin = Math.min(bins - 1, Math.floor(axis.share(picture.score) * bins));
      row[bin][isMistake(verdict(picture)) ? "wrong" : "right"] += 1;
    }
    return row;
  });
  const svg = draw("svg", {
    viewBox: `0 0 ${width} ${top + 2 * tall + gap + 22}`, role: "img",
    "aria-label": "Scores of good and defective pictures; the table below has the counts.",
  });
  rows.forEach((row, place) => {
    const name = place ? "defective" : "good";
    const floor = top + tall + place * (tall + gap);
    const most = Math.max(1, ...row.map((bin) => bin.right + bin.wrong));
    const step = (width - 2 * inset) / bins;
    row.forEach((bin, number) => {
      let base = floor;
      for (const [amount, style] of [[bin.right, name], [bin.wrong, "mistake"]]) {
        if (!amount) continue;
        const height = (amount / most) * (tall - 20);
        base -= height;
        svg.append(draw("rect", { class: style, x: inset + number * step + 0.5, y: base, width: Math.max(1, step - 1), height }));
      }
    });
    svg.append(draw("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor }));
    const total = pictures.filter((picture) => picture.defective === Boolean(place)).length;
    svg.append(draw("text", { x: inset, y: floor - tall + 12 }, `${name}, ${total}`));
    svg.append(draw("text", { x: width - inset, y: floor - tall + 12, "text-anchor": "end", class: "soft" },
      `highest bar ${most}`));
  });
  const bottom = top + 2 * tall + gap;
  const line = (score, style) =>
    svg.append(draw("line", { class: style, x1: x(score), x2: x(score), y1: top - 4, y2: bottom }));
  if (saved !== null && saved !== state.threshold) line(saved, "saved");
  line(state.threshold, "cut");
  const here = x(state.threshold);
  const anchor = here < 80 ? "start" : here > width - 80 ? "end" : "middle";
  svg.append(draw("text", { x: anchor === "middle" ? here : anchor === "start" ? 0 : width, y: 13, "text-anchor": anchor },
    `threshold ${short(state.threshold)}`));
  svg.append(draw("text", { class: "soft", x: 0, y: bottom + 17 }, short(axis.from)));
  svg.append(draw("text", { class: "soft", x: width, y: bottom + 17, "text-anchor": "end" },
    axis.cut ? `${short(axis.to)} and above` : short(axis.to)));
  svg.append(draw("text", { class: "soft", x: width / 2, y: bottom + 17, "text-anchor": "middle" }, "score"));
  at("plot").replaceChildren(svg);
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
    if (!whole) return [title, "not defined: there are none"];
    const [low, high] = interval(part, whole);
    const value = make("span", {}, make("b", {}, percent(part / whole)),
      ` ${part} of ${words}; 95 % interval ${percent(low)} to ${percent(high)}`);
    return [title, value];
  };
  at("rates").replaceChildren(...pairs([
    rate("Recall: defects found", found, found + missed, count(found + missed, "defective picture")),
    rate("Precision: real ones among those called defective", found, found + alarm, `${found + alarm} called defective`),
    rate("False-alarm rate", alarm, alarm + passed, count(alarm + passed, "good picture")),
  ]));
  const moved = saved !== null && state.threshold !== saved;
  at("moved").hidden = !moved && saved !== null;
  at("moved").textContent = moved
    ? `Moved from ${short(saved)}, which the saved model keeps. A threshold that is chosen by looking at test pictures does better on them than on new ones.`
    : "The run has no threshold of its own. This one is the best for these test pictures, and does better on them than on new ones.";
  const errors = missed + alarm;
  at("slider").setAttribute("aria-valuetext",
    `${short(state.threshold)}: ${missed} missed, ${count(alarm, "false alarm")}`);
  return errors;
}

/** How the detector gets the threshold that is set; nothing to say of the one that it has. */
function showKeep() {
  at("keep").hidden = state.threshold === saved;
  if (saved === null) {
    at("keep-words").textContent = "The detector has no scale yet to keep a threshold on. Good pictures give it one; RUN is the run's directory:";
    at("keep-command").textContent = "ad calibrate RUN --normals DIR";
    return;
  }
  at("keep-command").textContent = `ad calibrate RUN --threshold ${typed()}`;
}

/** Put a command on the clipboard, or mark it where the browser lets no page do that. */
async function copyCommand() {
  const button = at("keep-copy");
  try {
    await navigator.clipboard.writeText(at("keep-command").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(at("keep-command"));
    button.textContent = "Marked";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
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

const loaded = new Map();

/** A picture from a data address, decoded once. */
function load(address) {
  if (!loaded.has(address)) {
    const image = new Image();
    image.src = address;
    loaded.set(address, image.decode().then(() => image));
  }
  return loaded.get(address);
}

/** Width and height of the picture's shape, the longer side of a given length. */
function shape([width, height], side) {
  const scale = side / Math.max(width, height);
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Pixels of a WebP, brought to a size. */
async function pixels(address, width, height) {
  const image = await load(address);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Colour a map: the table has red, green, blue and alpha for each grey level. */
async function paintHeat(canvas, address) {
  const grey = await pixels(address, canvas.width, canvas.height);
  for (let at = 0; at < grey.data.length; at += 4) {
    const level = 4 * grey.data[at];
    for (let part = 0; part < 4; part += 1) grey.data[at + part] = data.colours[level + part];
  }
  canvas.getContext("2d").putImageData(grey, 0, 0);
}

/** Outline a mask: white, or blue, with a dark rim, to be seen on any picture. */
async function paintMask(canvas, address, line = "#fff") {
  const { width, height } = canvas;
  const mask = (await pixels(address, width, height)).data;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[4 * (y * width + x)] > 127;
  const context = canvas.getContext("2d");
  for (const [colour, size] of [["#0008", 3], [line, 1]]) {
    context.fillStyle = colour;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        if (inside(x, y) && !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1))) {
          context.clearRect(x - (size >> 1), y - (size >> 1), size, size);
          context.fillRect(x - (size >> 1), y - (size >> 1), size, size);
        }
      }
    }
  }
}

const paintOutline = (canvas, address) => paintMask(canvas, address, "#4da3ff");

/** A picture under its map, what the detector's own test outlines and the outline of its defect. */
function layers(item, side, parts) {
  const [width, height] = shape(item.size, side);
  const box = make("span", { class: "layers" },
    make("img", { src: item.picture, alt: "", width, height, decoding: "async" }));
  box.style.setProperty("--ratio", width / height);
  for (const [name, paint] of [["heat", paintHeat], ["outline", paintOutline], ["mask", paintMask]]) {
    if (!parts.includes(name) || item[name] === null) continue;
    const canvas = make("canvas", { class: name, width, height });
    paint(canvas, item[name]);
    box.append(canvas);
  }
  return box;
}

function card(item) {
  if (!cards.has(item.index)) {
    const picture = pictures[item.index];
    const badge = make("span", { class: "badge" });
    const button = make("button", { type: "button", class: "card" },
      make("span", { class: "frame" }, layers(item, 256, ["heat", "outline", "mask"])),
      make("span", { class: "caption" },
        make("span", { class: "top" }, badge, make("span", { class: "score" }, short(picture.score))),
        make("span", { class: "name" }, picture.name)));
    button.addEventListener("click", () => view(order().indexOf(item)));
    cards.set(item.index, { row: make("li", {}, button), button, badge });
  }
  return cards.get(item.index);
}

/** The gallery's pictures that were asked for, the most wrong first. */
function order() {
  const what = at("show").value, kind = at("kind").value;
  return data.gallery
    .filter(({ index }) => kind === "" || data.kindOf[index] === Number(kind))
    .filter(({ index }) => {
      const name = verdict(pictures[index]);
      return what === "all" || (what === "errors" ? isMistake(name) : name === what);
    })
    .sort((a, b) => wrongness(pictures[b.index]) - wrongness(pictures[a.index]) || a.index - b.index);
}

function showVerdicts() {
  for (const [index, { button, badge }] of cards) {
    const name = verdict(pictures[index]);
    const mistake = isMistake(name);
    button.classList.toggle("mistake", mistake);
    badge.className = `badge ${mistake ? "mistake" : "right"}`;
    badge.textContent = `${WORDS[name]}: ${pictures[index].kind.group}`;
  }
}

function showGallery() {
  const items = order();
  at("gallery").replaceChildren(...items.slice(0, state.shown).map((item) => card(item).row));
  showVerdicts();
  const left = items.length - state.shown;
  at("more").hidden = left <= 0;
  at("more").textContent = `Show ${Math.min(PAGE, left)} more of ${left}`;
  const errors = pictures.filter((picture) => isMistake(verdict(picture))).length;
  const pictured = data.gallery.filter(({ index }) => isMistake(verdict(pictures[index]))).length;
  const all = data.gallery.length === pictures.length
    ? `All ${count(pictures.length, "test picture")} are here.`
    : `This file holds ${data.gallery.length} of ${pictures.length} test pictures: those that are hardest to get right, some of the clearest, and some of each kind. The CSV lists all.`;
  const wrong = errors
    ? `${count(errors, "picture")} ${errors === 1 ? "is" : "are"} on the wrong side of the threshold${pictured < errors ? `, ${pictured} of them are here` : ""}.`
    : "None is on the wrong side of the threshold.";
  at("gallery-count").textContent = `${wrong} ${all}${items.length ? "" : " Nothing to show with this choice."}`;
}

// --- one picture, large ------------------------------------------------------------------------

function view(place) {
  const items = order();
  if (!items.length) return;
  state.viewed = Math.min(Math.max(place, 0), items.length - 1);
  const item = items[state.viewed], picture = pictures[item.index];
  const name = verdict(picture);
  at("viewer-title").textContent = picture.name;
  const distance = Math.abs(picture.score - state.threshold);
  const scaled = data.calibration === null ? "" :
    ` (${(0.5 + 0.5 * Math.tanh((picture.score - saved) / data.calibration.scale / 2)).toFixed(2)} on the scale from 0 to 1)`;
  at("viewer-text").replaceChildren(
    make("span", { class: `badge ${isMistake(name) ? "mistake" : "right"}` }, WORDS[name]),
    ` ${kindName(picture.kind)}. Score ${short(picture.score)}${scaled}, ${short(distance)} ${picture.score > state.threshold ? "above" : "below"} the threshold. Picture ${state.viewed + 1} of ${items.length}.`);
  const part = (words, parts) => make("figure", {},
    make("div", { class: "frame" }, layers(item, 512, parts)), make("figcaption", {}, words));
  const views = [part(item.mask === null ? "picture" : "picture and outline of the defect", ["mask"])];
  if (item.heat !== null) views.push(part("map", ["heat", "outline"]));
  at("viewer-pictures").replaceChildren(...views);
  at("viewer-back").disabled = state.viewed === 0;
  at("viewer-next").disabled = state.viewed === items.length - 1;
  if (!at("viewer").open) at("viewer").showModal();
}

function closeViewer() {
  const item = order()[state.viewed];
  at("viewer").close();
  if (item && !cards.get(item.index)?.row.isConnected) {
    state.shown = Math.ceil((state.viewed + 1) / PAGE) * PAGE;
    showGallery();
  }
  if (item) card(item).button.focus();
}

// --- the rest of the page ----------------------------------------------------------------------

function showFigures() {
  at("title").textContent = data.title;
  const { found, missed, passed, alarm } = tally();
  at("lead").textContent = !pictures.length ? "No test pictures."
    : saved === null ? `${count(pictures.length, "test picture")}; no threshold, as nothing was held out.`
    : `At its threshold it finds ${found} of ${count(found + missed, "defective picture")} and calls ${alarm} of ${count(passed + alarm, "good one")} defective.`;
  at("notes").replaceChildren(...data.notes.map((text) => make("li", {}, text)));
  at("figures").replaceChildren(...data.figures.filter(({ value }) => value !== null)
    .map(({ title, meaning, value }) => make("div", {}, make("dt", {}, title),
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
      table(["engine", "threads", "p50 ms", "p95 ms", "p99 ms", "pictures/s", "CPU ms", "MB", "start s"],
        data.speeds.rows));
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
    ["The figures again, where the model is to run", make("code", {}, "ad evaluate RUN")],
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
  at("slider").value = Math.round(axis.share(state.threshold) * STEPS);
  if (document.activeElement !== at("number")) at("number").value = state.threshold;
  histogram();
  showCounts();
  showKeep();
  showKinds();
  showNext();
  for (const button of at("presets").children) {
    button.setAttribute("aria-pressed", Number(button.value) === state.threshold);
  }
  if (resting) showGallery(); else showVerdicts();
}

function move(threshold, options) {
  state.threshold = threshold;
  update(options);
}

function addPresets() {
  const good = pictures.filter((picture) => !picture.defective).map(({ score }) => score);
  const bad = pictures.filter((picture) => picture.defective).map(({ score }) => score);
  const lowest = bad.reduce((a, b) => Math.min(a, b), Infinity);
  const highest = good.reduce((a, b) => Math.max(a, b), -Infinity);
  const presets = [
    ...(saved === null ? [] : [["As saved", saved]]),
    ...(bad.length ? [["Every defect found", below(lowest)]] : []),
    ...(good.length ? [["No false alarm", highest]] : []),
    ...(bad.length && good.length ? [["Best F1", bestF1()]] : []),
  ];
  at("presets").replaceChildren(...presets.map(([words, threshold]) => {
    const button = make("button", { type: "button", value: threshold }, words);
    button.addEventListener("click", () => move(threshold));
    return button;
  }));
}

function addChoices() {
  const option = (value, words) => make("option", { value }, words);
  at("show").append(option("all", "all"), option("errors", "wrong ones"), option("missed", "missed defects"),
    option("alarm", "false alarms"), option("found", "found defects"), option("passed", "passed good ones"));
  at("kind").append(option("", "all"), ...kinds.map((kind, place) => option(place, kindName(kind))));
  for (const id of ["show", "kind"]) {
    at(id).addEventListener("change", () => { state.shown = PAGE; showGallery(); });
  }
}

/** The next threshold at which one more picture, or tied ones, change sides. */
function neighbour(direction) {
  let place = sorted.findLastIndex((score) => score <= state.threshold);
  place += direction;
  return place < 0 ? axis.from : sorted[Math.min(place, sorted.length - 1)];
}

function listen() {
  const slider = at("slider");
  slider.addEventListener("input", () => move(axis.score(slider.value / STEPS), { resting: false }));
  slider.addEventListener("change", () => showGallery());
  slider.addEventListener("keydown", (event) => {
    const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    move(neighbour(direction));
  });
  at("number").addEventListener("change", () => {
    const value = at("number").valueAsNumber;
    if (Number.isFinite(value)) move(value);
  });
  for (const id of ["opacity", "viewer-opacity"]) {
    at(id).addEventListener("input", () => {
      for (const other of ["opacity", "viewer-opacity"]) at(other).value = at(id).value;
      document.body.style.setProperty("--heat", at(id).value / 100);
    });
  }
  at("outline").addEventListener("change", () => document.body.classList.toggle("no-outline", !at("outline").checked));
  at("own").addEventListener("change", () => document.body.classList.toggle("no-own", !at("own").checked));
  at("more").addEventListener("click", () => {
    const first = state.shown;
    state.shown += PAGE;
    showGallery();
    at("gallery").children[first]?.querySelector("button").focus();
  });
  at("save").addEventListener("click", saveVerdicts);
  at("keep-copy").addEventListener("click", copyCommand);
  at("viewer-close").addEventListener("click", closeViewer);
  at("viewer").addEventListener("cancel", (event) => { event.preventDefault(); closeViewer(); });
  at("viewer-back").addEventListener("click", () => view(state.viewed - 1));
  at("viewer-next").addEventListener("click", () => view(state.viewed + 1));
  at("viewer").addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") view(state.viewed - 1);
    if (event.key === "ArrowRight") view(state.viewed + 1);
  });
  new ResizeObserver(histogram).observe(at("plot"));
}

const has = {
  pictures: pictures.length > 0,
  maps: data.localises,
  masks: data.gallery.some(({ mask }) => mask !== null),
  outlines: data.outlines !== "",
};
for (const element of document.querySelectorAll("[data-needs]")) element.hidden = !has[element.dataset.needs];
at("ramp-words").textContent = data.calibration?.pixel_threshold != null
  ? "Colour starts just below the pixel threshold, which is at orange." : "No pixel threshold: each map has its own range of colours.";
at("outline-words").textContent = data.outlines;
showFigures();
showMade();
showNext();
if (has.pictures) {
  addPresets();
  addChoices();
  listen();
  update();
}
